"""What a run of a suite found: the JSON body and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from actdistill_ros.suites.record import Ended
from actdistill_ros.suites.world import Task
from actdistill_ros.trials.interval import wilson
from actdistill_ros.trials.report import machine


def body(episodes: Sequence[Ended], tasks: Sequence[Task], settings: Mapping[str, object]) -> dict:
    """episodes: in the order of the schedule, at least one. Keys that need a decoder are null for a policy without
    one."""
    executed = [e.executed for e in episodes if e.executed]
    frequency = np.mean(executed, axis=0) if executed else None
    return {
        **machine(),
        **settings,
        **_rates(episodes),
        "tasks": {
            tasks[number].name: {
                **_rates([e for e in episodes if e.task == number]),
                "number": number,
                "instruction": tasks[number].instruction,
            }
            for number in sorted({e.task for e in episodes})
        },
        "budget": episodes[0].budget,
        "decoder_flops_share": None if frequency is None else float(frequency.mean()),
        "layers_executed_mean": None if frequency is None else float(frequency.sum()),
        "layer_frequency": None if frequency is None else frequency.tolist(),
        "decoder_ms": _percentiles([t for e in episodes for t in e.decoder_ms]),
        "step_ms": _percentiles([t for e in episodes for t in e.step_ms]),
        "outcomes": [int(e.success) for e in episodes],
        "first_views": [{"task": e.task, "trial": e.trial, "steps": e.steps, **e.first_view} for e in episodes],
    }


def table(found: Mapping) -> str:
    lines = [f"{'task':>4}{'success':>10}{'95 % interval':>16}{'steps':>8}  instruction"]
    rows = [(str(task["number"]), task, task["instruction"]) for task in found["tasks"].values()]
    for name, rates, instruction in [*rows, ("all", found, found["suite"])]:
        low, high = rates["ci95"]
        count = f"{rates['successes']}/{rates['episodes']}"
        interval = f"{100 * low:.0f} … {100 * high:.0f} %"
        lines.append(f"{name:>4}{count:>10}{interval:>16}{rates['mean_steps']:>8.1f}  {instruction}")
    return "\n".join(lines)


def _rates(episodes: Sequence[Ended]) -> dict:
    successes = sum(e.success for e in episodes)
    return {
        "success_rate": successes / len(episodes),
        "ci95": list(wilson(successes, len(episodes))),
        "episodes": len(episodes),
        "successes": successes,
        "mean_steps": float(np.mean([e.steps for e in episodes])),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))} if values else None
