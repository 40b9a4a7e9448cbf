"""Which layers a step runs, decided once, before the first of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import tanh
from typing import Protocol

import numpy as np
import torch

from actdistill_ros.policy import budgets

Evidence = Callable[[], np.ndarray]  # (L,) float32, as `Router.evidence` has it


@dataclass(frozen=True)
class Plan:
    """gates: score of each layer, 0 … 1; executed: one bool per layer."""

    gates: tuple[float, ...]
    executed: tuple[bool, ...]


class Planner(Protocol):
    """budget: allowed share of decoder compute that the plans keep to on average."""

    budget: float

    def __call__(self, evidence: Evidence) -> Plan:
        """evidence: what speaks for each layer, computed if asked for."""


class FixedPlan:
    """The same layers in every step."""

    def __init__(self, executed: Sequence[bool]) -> None:
        self.budget = float(np.mean(executed))
        self._plan = Plan(tuple(float(e) for e in executed), tuple(bool(e) for e in executed))

    def __call__(self, evidence: Evidence) -> Plan:
        return self._plan


class RoutedPlan:
    """What the router chooses under a budget. Its scores are known before the first layer."""

    def __init__(self, router: budgets.Budgeted, budget: float) -> None:
        """Raises ValueError if the budget is not within what the router was calibrated for."""
        self.budget = budget
        calibrated, self._threshold = budgets.at(router, budget)
        shift = budgets.shift(router, torch.full((1,), calibrated, device=router.place.device))  # (1, L)
        self._shift = shift[0].detach().cpu().numpy()  # (L,)
        self._always = router.always.tolist()

    def __call__(self, evidence: Evidence) -> Plan:
        scores = (evidence() + self._shift).tolist()
        executed = tuple([a or score > self._threshold for a, score in zip(self._always, scores, strict=True)])
        return Plan(tuple([0.5 + 0.5 * tanh(0.5 * score) for score in scores]), executed)  # a sigmoid, never too large


class RandomPlan:
    """First, last and as many others as the budget allows, drawn anew in each step: what a router has to beat."""

    def __init__(self, layers: int, budget: float, seed: int) -> None:
        """Raises ValueError if the budget is less than the first and the last layer."""
        if not 2 / layers <= budget <= 1.0:
            raise ValueError(f"budget {budget:g} is not in {2 / layers:.2f} … 1: first and last layer always run")
        self.budget, self._layers = budget, layers
        self._rng = np.random.default_rng(seed)

    def __call__(self, evidence: Evidence) -> Plan:
        wanted = self.budget * self._layers - 2
        count = int(wanted) + int(self._rng.random() < wanted % 1.0)
        drawn = {0, self._layers - 1, *(1 + self._rng.permutation(self._layers - 2)[:count])}
        executed = tuple(i in drawn for i in range(self._layers))
        return Plan(tuple(map(float, executed)), executed)
