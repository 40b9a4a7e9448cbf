"""How pictures are varied in training: brightness, contrast and saturation; never a shift, which would be a wrong label
for a camera that stands still."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.2, 0.2
"""Largest change either way, as OpenVLA's recipe has them. Its turn of the hue is left out: instructions name
colours."""
_GREY = (0.299, 0.587, 0.114)


def vary(unit: Tensor, count: int, rng: np.random.Generator, share: slice) -> Tensor:
    """unit: (b, 3, S, S) in 0 … 1, those pictures of a batch of `count` that `share` names; as many numbers are drawn
    whatever the share is."""
    drawn = rng.uniform(-1.0, 1.0, (3, count))[:, share]  # (3, b)
    brightness, contrast, saturation = torch.from_numpy(drawn).float()[..., None, None, None]  # (b, 1, 1, 1) each
    bright = unit + BRIGHTNESS * brightness
    middle = bright.mean(dim=(2, 3), keepdim=True)  # (b, 3, 1, 1)
    strong = middle + (1 + CONTRAST * contrast) * (bright - middle)
    grey = (strong * torch.tensor(_GREY)[:, None, None]).sum(1, keepdim=True)  # (b, 1, S, S)
    return (grey + (1 + SATURATION * saturation) * (strong - grey)).clamp(0.0, 1.0)
