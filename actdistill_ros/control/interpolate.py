"""Straight line between two joint vectors, slow enough for every joint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """start, goal: (6,) [rad]; taken in `duration_s` at constant speed."""

    start: np.ndarray
    goal: np.ndarray
    duration_s: float

    def at(self, phase_s: float) -> np.ndarray:
        """(6,) joints `phase_s` after the start [rad]; the exact goal from its end on."""
        if phase_s >= self.duration_s:
            return self.goal
        return self.start + (self.goal - self.start) * (phase_s / self.duration_s)


def segment(start: np.ndarray, goal: np.ndarray, wanted_s: float, speed_limit: np.ndarray) -> Segment:
    """Takes `wanted_s`, or longer if a joint would exceed speed_limit (6,) [rad/s]."""
    return Segment(start, goal, max(wanted_s, float(np.max(np.abs(goal - start) / speed_limit))))
