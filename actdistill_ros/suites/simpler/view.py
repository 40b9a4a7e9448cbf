"""What a policy sees of SIMPLER: a camera's frame, resized as SIMPLER's adapters do before a checkpoint's own
preprocessing."""

from __future__ import annotations

import cv2
import numpy as np

from actdistill_ros.contract.contract import ContractError

PIXELS = 224


def frame(observation: dict, camera: str) -> np.ndarray:
    """(H, W, 3) uint8 of that camera, from an observation of ManiSkill: of 2 under "image", of 3 under "sensor_data"
    with a batch of one.

    Raises ContractError if there is none, if it is of several environments, or no RGB bytes.
    """
    cameras = observation.get("sensor_data", observation.get("image", {}))
    if camera not in cameras or "rgb" not in cameras[camera]:
        raise ContractError(f"the observation has no camera {camera}; it has {', '.join(cameras) or 'none'}")
    image = np.asarray(cameras[camera]["rgb"])
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ContractError(
            f"camera {camera} came as {image.dtype} {image.shape}; expected (H, W, 3) uint8 of one environment"
        )
    return image


def for_openvla(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (224, 224, 3): the whole frame squeezed into the square, averaged over areas."""
    return cv2.resize(image, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)
