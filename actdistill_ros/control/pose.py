"""Poses on SE(3): composing deltas. Never roll-pitch-yaw: gripper down is its singularity."""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.rotation import (
    from_quaternion_xyzw,
    from_rotation_vector,
    orthonormal,
    rotation_vector,
    skew,
    to_quaternion_xyzw,
)

__all__ = [
    "difference",
    "from_quaternion_xyzw",
    "from_rotation_vector",
    "integrate",
    "orthonormal",
    "rotation_vector",
    "skew",
    "to_quaternion_xyzw",
]


def integrate(tcp_in_base: ArmPose, delta_m: np.ndarray, delta_rad: np.ndarray) -> ArmPose:
    """Next commanded TCP pose: both deltas are expressed in `base_link` and composed onto the commanded pose, so that
    steps smaller than a solver's dead band still add up.

    Raises ValueError if a delta is not finite.
    """
    if not (np.all(np.isfinite(delta_m)) and np.all(np.isfinite(delta_rad))):
        raise ValueError(f"action has a value that is not finite: translation {delta_m} m, rotation {delta_rad} rad")
    rotation = orthonormal(from_rotation_vector(delta_rad) @ tcp_in_base.rotation)
    return ArmPose(tcp_in_base.position_m + delta_m, rotation)


def difference(goal: ArmPose, start: ArmPose) -> tuple[np.ndarray, np.ndarray]:
    """The deltas that `integrate` needs to go from start to goal: (3,) [m], (3,) [rad], in `base_link`."""
    return goal.position_m - start.position_m, rotation_vector(goal.rotation @ start.rotation.T)
