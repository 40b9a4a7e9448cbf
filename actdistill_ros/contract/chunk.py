"""Consecutive end-effector actions that one observation led to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ACTION_NAMES = ("dx_m", "dy_m", "dz_m", "rx_rad", "ry_rad", "rz_rad", "gripper_opening")
ACTION_DIM = len(ACTION_NAMES)
TRANSLATION = slice(0, 3)
ROTATION = slice(3, 6)
GRIPPER = 6


@dataclass(frozen=True)
class Chunk:
    """Actions to execute one after the other, `period_s` apart.

    actions: (K, 7) float64; TCP translation delta [m] and rotation-vector delta [rad], both in `base_link` and composed
    onto the commanded pose, then the gripper opening (0 closed … 1 open).
    execute: how many of the K actions are meant to run before the next chunk replaces the rest.
    stamp_s: capture time of the observation [s].
    """

    actions: np.ndarray
    period_s: float
    execute: int
    stamp_s: float
    instruction: str
    checkpoint_id: str
