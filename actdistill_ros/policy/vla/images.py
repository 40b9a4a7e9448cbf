"""A camera's frame to the pixels of both vision towers, as the checkpoint's preprocessor did it in training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from actdistill_ros.contract.contract import ContractError

FILE = "preprocessor_config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class VisionInput:
    """size: side of the square that both towers see; means, stds: of each tower, for values in 0 … 1.

    crop_area: share of the frame's area that is kept around its centre first. Models trained on random crops of 0.9
    (the LIBERO fine-tunes) expect 0.9 here.
    """

    size: int = 224
    means: tuple[tuple[float, ...], ...] = (IMAGENET_MEAN, HALF)
    stds: tuple[tuple[float, ...], ...] = (IMAGENET_STD, HALF)
    crop_area: float = 1.0

    def pixels(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB to (1, 6, S, S) float32: the whole frame squeezed into the square, bicubic with
        antialiasing, normalised for each tower."""
        return self.normalised(to_unit(torch.from_numpy(self.squeezed(image))[None]))

    def squeezed(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB to (S, S, 3) uint8; what a training set may keep of a frame."""
        if self.crop_area < 1.0:
            image = _centre(image, self.crop_area**0.5)
        # Pillow's own rounding: other bicubic filters differ by one grey value here and there, which tokens can feel.
        return np.array(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def normalised(self, unit: Tensor) -> Tensor:
        """(B, 3, S, S) in 0 … 1 to (B, 6, S, S) float32, DINOv2's three channels first."""
        return torch.cat([_normalised(unit, m, s) for m, s in zip(self.means, self.stds, strict=True)], dim=1)


def to_unit(squeezed: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32 in 0 … 1."""
    return squeezed.permute(0, 3, 1, 2).float() / 255.0


def read(folder: Path, size: int, crop_area: float = 1.0) -> VisionInput:
    """What the folder's preprocessor says; the published values where the folder has none (Prismatic's runs).

    Raises ContractError if it asks for something that this package does not do.
    """
    path = folder / FILE
    if not path.is_file():
        return VisionInput(size, crop_area=crop_area)
    try:
        body = json.loads(path.read_text())
        found = _read(body, path, size, crop_area)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{path} is not the preprocessor of a fused Prismatic model: {error!r}.") from error
    return found


def _read(body: Mapping, path: Path, size: int, crop_area: float) -> VisionInput:
    expected = {
        "image_resize_strategy": "resize-naive",
        "interpolations": ["bicubic", "bicubic"],
        "input_sizes": [[3, size, size]] * 2,
    }
    for name, value in expected.items():
        if body[name] != value:
            raise ContractError(f"{path}: {name} is {body[name]!r}; this package does {value!r} only.")
    means, stds = (tuple(tuple(map(float, one)) for one in both) for both in _normalisation(body))
    if any(len(both) != 2 or any(len(one) != 3 for one in both) for both in (means, stds)):
        raise ContractError(f"{path}: means and stds must be two of three numbers, for DINOv2 and for SigLIP.")
    return VisionInput(size, means, stds, crop_area)


def _normalisation(body: Mapping) -> tuple[list, list]:
    """Means and deviations of both towers. Converted checkpoints name them twice, and the second time rounded to
    bfloat16 (0.484375 for 0.485); that one is what the original preprocessor goes by, so it is what fine-tunes saw."""
    if rounded := body.get("tvf_normalize_params"):
        return [tower["mean"] for tower in rounded], [tower["std"] for tower in rounded]
    return body["means"], body["stds"]


def _centre(image: np.ndarray, side: float) -> np.ndarray:
    """(H, W, 3) to the middle (side·H, side·W, 3)."""
    height, width = image.shape[:2]
    h, w = round(height * side), round(width * side)
    top, left = (height - h) // 2, (width - w) // 2
    return np.ascontiguousarray(image[top : top + h, left : left + w])


def _normalised(unit: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))  # (3, 1, 1)
    return (unit - mean) / std
