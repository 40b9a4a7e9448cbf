"""From what camera and arm give to what the policy takes, the same in training and on the robot."""

from __future__ import annotations

import cv2
import numpy as np

from actdistill_ros.contract.contract import CameraSpec, Statistics
from actdistill_ros.contract.observation import ArmPose


def policy_view(image: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Centre square of an (H, W, 3) uint8 RGB frame, resized by area to (size, size, 3) uint8."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (camera.size, camera.size), interpolation=cv2.INTER_AREA)


def state_vector(tcp_commanded: ArmPose, gripper_measured: float) -> np.ndarray:
    """State in the order of `STATE_NAMES`: position, first two columns of the rotation, gripper opening; (10,)
    float32."""
    rotation = tcp_commanded.rotation
    return np.concatenate([tcp_commanded.position_m, rotation[:, 0], rotation[:, 1], [gripper_measured]]).astype(
        np.float32
    )


def normalise(actions: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Actions (…, 7) in metres and radians to about [−1, 1]; unmasked dimensions unchanged."""
    q01, q99, mask = map(np.asarray, (statistics.q01, statistics.q99, statistics.mask))
    return np.where(mask, 2 * (actions - q01) / (q99 - q01) - 1, actions)


def denormalise(actions: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Inverse of `normalise`."""
    q01, q99, mask = map(np.asarray, (statistics.q01, statistics.q99, statistics.mask))
    return np.where(mask, (actions + 1) / 2 * (q99 - q01) + q01, actions)
