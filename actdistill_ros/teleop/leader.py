"""The arm repeats what a leader arm does while the dead-man is held; pressing it takes up wherever both are then."""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.pose import difference, integrate

PULL_PER_S = 5.0
"""Speed with which the arm follows, per distance that it lags."""
LAG_M, LAG_RAD = 0.03, 0.2
"""A leader further ahead than this slips: a slower arm must not go on moving long after the hand has stopped."""


class Clutch:
    """Turns the leader's joints into a twist for the arm. The leader has the X5's kinematics; its base may be anywhere
    that points the same way."""

    def __init__(self) -> None:
        self._from: tuple[ArmPose, ArmPose] | None = None

    def twist(self, joints: np.ndarray, held: bool, commanded: ArmPose | None) -> np.ndarray:
        """(6,) [m/s, rad/s] in `base_link`; joints: (6,) of the leader [rad]; commanded: the arm's pose or None."""
        if not held or commanded is None:
            self._from = None
            return np.zeros(6)
        leader = X5.chain.forward(joints)
        if self._from is None:
            self._from = (leader, commanded)
        leader_then, arm_then = self._from
        target = integrate(arm_then, *difference(leader, leader_then))
        move, turn = difference(target, commanded)
        slack_m, slack_rad = _within(move, LAG_M), _within(turn, LAG_RAD)
        if not (np.array_equal(slack_m, move) and np.array_equal(slack_rad, turn)):
            self._from = (leader, integrate(commanded, slack_m, slack_rad))
        return PULL_PER_S * np.concatenate([slack_m, slack_rad])


def _within(vector: np.ndarray, length: float) -> np.ndarray:
    """The vector, no longer than that."""
    size = float(np.linalg.norm(vector))
    return vector if size <= length else vector * (length / size)
