"""How a budget decides between scores: what every router has in common."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

SHARPNESS = 20.0  # how fast a gate opens as the budget passes the layer's place; a layer of 12 is 1.7 on this scale
LOWEST_BUDGET = 0.25
GRID = 76  # budgets 0.25, 0.26 … 1.0 that calibration finds a threshold for


class Budgeted(Protocol):
    """A router as these functions see it.

    place: (L,) at which budget a layer becomes worth running. always: (L,) bool, layers that run whatever the score.
    budgets, thresholds, shares: (GRID,) what `calibrate` found.
    """

    place: Tensor
    always: Tensor
    budgets: Tensor
    thresholds: Tensor
    shares: Tensor


def prepare(router: nn.Module, layers: int) -> None:
    """Give a router what `Budgeted` names, not calibrated: layers by their number, the first and the last always."""
    router.place = nn.Parameter((torch.arange(layers) + 0.5) / layers)
    always = torch.zeros(layers, dtype=torch.bool)
    always[[0, -1]] = True
    router.register_buffer("always", always)
    router.register_buffer("budgets", torch.linspace(LOWEST_BUDGET, 1.0, GRID))
    router.register_buffer("thresholds", torch.zeros(GRID))
    router.register_buffer("shares", torch.zeros(GRID))


def shift(router: Budgeted, budget: Tensor) -> Tensor:
    """What the budget (B,) adds to the scores, (B, L): to all alike, so that more of it takes no layer away."""
    return SHARPNESS * (budget[:, None] - router.place)


def at(router: Budgeted, budget: float) -> tuple[float, float]:
    """The largest calibrated budget within this one, and its threshold.

    Raises ValueError if the budget is not within what was calibrated.
    """
    if not LOWEST_BUDGET - 1e-9 <= budget <= 1.0 + 1e-9:
        raise ValueError(f"budget {budget:g} is not in {LOWEST_BUDGET} … 1, which this student was calibrated for")
    i = min(GRID - 1, math.floor((budget - LOWEST_BUDGET) / (1.0 - LOWEST_BUDGET) * (GRID - 1) + 1e-6))
    return float(router.budgets[i]), float(router.thresholds[i])


@torch.no_grad()
def calibrate(router: Budgeted, evidence: Tensor) -> None:
    """Find each budget's threshold: the lowest under which these inputs run, on average, no more than the budget.

    evidence: (S, L) of inputs that nothing was trained on.
    """
    for i, budget in enumerate(router.budgets):
        # The very sum that a step computes: inputs may tie, and rounding would then decide for all of them.
        scores = evidence + shift(router, budget.expand(len(evidence)))  # (S, L)
        router.thresholds[i] = threshold(scores, router.always, float(budget))
        router.shares[i] = ((scores > router.thresholds[i]) | router.always).float().mean()


def threshold(scores: Tensor, always: Tensor, budget: float) -> float:
    """Lowest value such that layers scoring above it, with those that always run, are at most `budget` of all.

    scores: (S, L); always: (L,) bool; −inf if everything may run.
    """
    free = scores[:, ~always].flatten()
    allowed = math.floor(budget * scores.numel() + 1e-6) - len(scores) * int(always.sum())
    if allowed >= len(free):
        return -math.inf
    if allowed < 0:
        return math.inf
    return float(free.sort(descending=True).values[allowed])


def pooled(t: Tensor, spoken: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and largest of the words that are there, (B, R) each. t: (B, T, R); spoken: (B, T) bool, None if all are."""
    if spoken is None:
        return t.mean(1), t.amax(1)
    there = spoken[..., None]  # (B, T, 1)
    mean = t.masked_fill(~there, 0.0).sum(1) / there.sum(1).clamp(min=1)
    return mean, t.masked_fill(~there, -1e4).amax(1)
