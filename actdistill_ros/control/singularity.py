"""How far the arm is from a singularity, and how much slower it goes there."""

from __future__ import annotations

import numpy as np

from actdistill_ros.control.kinematics import ORIENTATION_WEIGHT_M, Chain
from actdistill_ros.control.settings import DriverSettings

SLOWEST = 0.1
"""Share of the speed that is left at a singularity: enough to get away from it."""


def dexterity(chain: Chain, q: np.ndarray) -> float:
    """Smallest singular value of the Jacobian [m/rad], a radian counted as ORIENTATION_WEIGHT_M metres.

    0 at a singularity, 0.033 at the vendor's home, 0.05 … 0.1 over the table with the gripper down.
    """
    matrix = chain.jacobian(q)
    matrix[3:] *= ORIENTATION_WEIGHT_M
    return float(np.linalg.svd(matrix, compute_uv=False)[-1])


def speed_share(now: float, ahead: float, settings: DriverSettings) -> float:
    """Share of the wanted speed, given the dexterity now and where the motion leads; leaving is never slowed."""
    if ahead >= now or ahead >= settings.singularity_slow_m:
        return 1.0
    span = settings.singularity_slow_m - settings.singularity_stop_m
    return min(1.0, max(SLOWEST, (ahead - settings.singularity_stop_m) / span))
