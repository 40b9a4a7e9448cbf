"""Whether the machine kept up with the loop: failures of a starved policy say nothing about the policy."""

from __future__ import annotations

from collections.abc import Sequence

from actdistill_ros.trials.protocol import Result

STEPS_SHARE_MIN = 0.6
"""Of the steps that the contract's period allows; inference between chunks takes its part of the rest."""
REAL_TIME_MIN = 0.9


def measure(results: Sequence[Result], contract_steps_per_s: float) -> dict:
    """Policy steps a second beside what the contract allows, and the slowest that the world ran (None: no world)."""
    seconds = sum(result.seconds for result in results)
    factors = [result.real_time_factor for result in results if result.real_time_factor is not None]
    return {
        "steps_per_s": sum(result.steps for result in results) / seconds if seconds else None,
        "contract_steps_per_s": contract_steps_per_s,
        "real_time_factor_min": min(factors, default=None),
    }


def warning(pace: dict) -> str:
    """What made the loop too slow to count; empty if nothing did."""
    found, wanted, factor = pace["steps_per_s"], pace["contract_steps_per_s"], pace["real_time_factor_min"]
    reasons = []
    if found is not None and found < STEPS_SHARE_MIN * wanted:
        reasons.append(f"the policy made {found:.1f} steps a second, its contract allows {wanted:.1f}")
    if factor is not None and factor < REAL_TIME_MIN:
        reasons.append(f"the simulated world fell to {factor:.2f} of real time")
    if not reasons:
        return ""
    remedy = "the loop was starved, so do not count these verdicts. Stop other work and repeat them."
    return f"{' and '.join(reasons)}: {remedy}"
