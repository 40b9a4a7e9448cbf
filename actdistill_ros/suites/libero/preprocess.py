"""From LIBERO's camera to what an OpenVLA checkpoint was trained on, one published step per function.

TensorFlow made these pictures when the checkpoints were trained, and its ways are followed to the pixel:
test_libero_preprocess.py holds every step against its recorded answers.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import simplejpeg

VIEW_PIXELS = 224
CROP_AREA = 0.9
"""Training cropped at random to this share of the area; judging takes the middle."""
JPEG_QUALITY = 95
LANCZOS_LOBES = 3


def view(frame: np.ndarray, crop: bool = True) -> np.ndarray:
    """(224, 224, 3) uint8: all steps. frame: (H, W, 3) uint8 RGB as the simulator renders it, head down.

    crop: False for a checkpoint that was trained without image augmentation.
    """
    small = shrink(through_jpeg(turn(frame)))  # (224, 224, 3)
    return centre_crop(small) if crop else small


def turn(frame: np.ndarray) -> np.ndarray:
    """By 180 degrees, as the training data is: the simulator's frames have both axes reversed."""
    return np.ascontiguousarray(frame[::-1, ::-1])


def through_jpeg(image: np.ndarray) -> np.ndarray:
    """Coded and decoded once, for the training data was stored as JPEG. image: (H, W, 3) uint8 RGB.

    OpenCV codes as TensorFlow does, but decodes exactly where TensorFlow takes libjpeg's fast inverse transform, which
    moves two pixels of three by a grey value or more; simplejpeg offers that one.
    """
    coded, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not coded:
        raise ValueError(f"an image of shape {image.shape} and type {image.dtype} cannot be coded as JPEG")
    return simplejpeg.decode_jpeg(data.tobytes(), colorspace="RGB", fastdct=True, fastupsample=False)


def shrink(image: np.ndarray, pixels: int = VIEW_PIXELS) -> np.ndarray:
    """To (pixels, pixels, 3) uint8 by the Lanczos kernel of three lobes, widened where the image gets smaller.

    OpenCV's Lanczos has four lobes and does not widen, so it would alias.
    """
    rows = _lanczos(image.shape[0], pixels)  # (P, H)
    columns = _lanczos(image.shape[1], pixels)  # (P, W)
    exact = np.einsum("ph,hwc,qw->pqc", rows, image.astype(np.float32), columns, optimize=True)  # (P, P, 3)
    return np.clip(np.rint(exact), 0, 255).astype(np.uint8)


def centre_crop(image: np.ndarray, area: float = CROP_AREA) -> np.ndarray:
    """The middle `area` of a square uint8 image, drawn out to its old size bilinearly, corners onto corners."""
    pixels = image.shape[0]
    side = np.float32(np.sqrt(np.float32(area)))
    first = (1 - side) / 2 * (pixels - 1)
    at = (first + np.arange(pixels, dtype=np.float32) * side).astype(np.float32)  # source row of each row
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, pixels - 1)
    share = (at - low).astype(np.float32)
    scaled = image.astype(np.float32) / 255
    rows = scaled[low] + (scaled[high] - scaled[low]) * share[:, None, None]
    both = rows[:, low] + (rows[:, high] - rows[:, low]) * share[None, :, None]  # (P, P, 3)
    # Scaled by 255.5 and cut off, which is how TensorFlow makes bytes of floats.
    return np.clip(both * np.float32(255.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _lanczos(source: int, target: int) -> np.ndarray:
    """(target, source) float32 weights; each row sums to one."""
    scale = max(source / target, 1.0)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    x = (np.arange(source)[None, :] - centres[:, None]) / scale
    kernel = np.where(np.abs(x) < LANCZOS_LOBES, np.sinc(x) * np.sinc(x / LANCZOS_LOBES), 0.0)
    weights = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.setflags(write=False)
    return weights
