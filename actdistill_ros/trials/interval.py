"""How sure a success rate is, from the trials that it was counted from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 10_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate; honest at 0 of n and n of n, (0, 1) when nothing was tried.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials cannot be; expected 0 … {n}.")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = rate + Z95**2 / (2 * n)
    half = Z95 * np.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # At the ends the bounds are exact; rounding would leave 5e-17 for zero.
    low = 0.0 if successes == 0 else float((centre - half) / scale)
    high = 1.0 if successes == n else float((centre + half) / scale)
    return low, high


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean of a - b, low, high): difference of two policies tried on the same seeds, with its 95 % interval.

    a, b: one outcome per seed, in the same order. Pairs are resampled, so what a seed makes hard for both cancels out.

    Raises ValueError if there are no pairs or their numbers differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"paired outcomes have shapes {first.shape} and {second.shape}; expected two equal rows of at least one."
        )
    difference = first - second
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(difference), (RESAMPLES // 10, len(difference))) for _ in range(10))
    means = np.concatenate([difference[draw].mean(axis=1) for draw in draws])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
