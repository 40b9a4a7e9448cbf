"""Which scene seeds may be learnt from, and which only judge."""

from __future__ import annotations

from collections.abc import Iterable

EVALUATION_SEED = 100_000
"""Seeds from here on are for judging only; nothing is trained on or chosen by them."""


def of_evaluation(seeds: Iterable[int]) -> list[int]:
    """Those of the seeds that are for judging only, in order."""
    return sorted(seed for seed in seeds if seed >= EVALUATION_SEED)
