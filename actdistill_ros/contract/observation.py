"""What the policy sees at one capture time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArmPose:
    """Pose of the tool centre point (TCP) in `base_link`.

    position_m: (3,) float64 [m]; rotation: (3, 3) float64 rotation matrix, TCP axes in `base_link`.
    """

    position_m: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class Observation:
    """Images, state and instruction that share one capture time.

    images: camera name -> (H, W, 3) uint8 RGB, as the camera gave them (the contract's preprocessing is not applied
    yet).
    tcp_commanded: the pose that the arm was last told to reach (never the measured one: lag would become drift).
    gripper_measured: opening, 0 closed … 1 open.
    stamp_s: capture time of the oldest image [s, the clock that stamps commands].
    """

    images: Mapping[str, np.ndarray]
    tcp_commanded: ArmPose
    gripper_measured: float
    instruction: str
    stamp_s: float
