"""The seam between camera node and camera: frames with their capture time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class CameraError(RuntimeError):
    """The camera cannot be opened or has stopped; the text says what was found and how to mend it."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model in pixels; distortion is plumb-bob (k1, k2, p1, p2, k3)."""

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Frame:
    """image: (H, W, 3) uint8 RGB, C-contiguous; stamp_s: capture time [s since the epoch]."""

    image: np.ndarray
    stamp_s: float


class FrameSource(Protocol):
    """One camera. Called from one thread: `open`, `read` until stopped, `close`."""

    def open(self) -> Intrinsics:
        """Raises CameraError."""

    def read(self, timeout_s: float) -> Frame | None:
        """The newest frame (older ones are dropped), or None if none came in time. Raises CameraError once it is
        gone."""

    def close(self) -> None:
        """May be called twice."""
