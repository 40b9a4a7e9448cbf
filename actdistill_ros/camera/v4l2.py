"""Frames of a USB camera through OpenCV and V4L2: the newest one, stamped when the driver captured it."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable

import cv2

from actdistill_ros.camera.source import CameraError, Frame, Intrinsics

_QUEUED_S = 0.002
"""A grab that takes less than this found its frame waiting in the queue."""
_OLDEST_S = 5.0
"""A driver stamp older than this is of another clock."""


class V4l2Camera:
    """One /dev/video device; a `FrameSource`.

    device: path or index. width, height, fps: asked of the camera, which may answer with what it has; frames of another
    size are refused at `open`, since the calibration and the policy count on it.
    intrinsics: calibration, or None for a camera that has none (focal length 0 means "not calibrated").
    """

    def __init__(
        self,
        device: str | int,
        width: int,
        height: int,
        fps: float,
        intrinsics: Intrinsics | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        open_capture: Callable[..., cv2.VideoCapture] = cv2.VideoCapture,
    ) -> None:
        self._device = int(device) if str(device).isdigit() else str(device)
        self._width, self._height, self._fps = width, height, fps
        self._intrinsics = intrinsics or Intrinsics(height, width, 0.0, 0.0, 0.0, 0.0)
        self._clock, self._monotonic, self._open_capture = clock, monotonic, open_capture
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> Intrinsics:
        if isinstance(self._device, str) and not os.path.exists(self._device):
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise CameraError(
                f"camera {self._device} is not there; present: {present}. Plug it in or name another device."
            )
        capture = self._open_capture(self._device, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f"camera {self._device} does not open: it is in use by another process, is no capture device, or this "
                "user is not in group video (sudo usermod -aG video $USER)"
            )
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._height)
        capture.set(cv2.CAP_PROP_FPS, self._fps)
        # The driver must not queue old frames while nobody reads; a driver that ignores this is drained in `read`.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        found = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if found != (self._width, self._height):
            capture.release()
            raise CameraError(
                f"camera {self._device} gives {found[0]} × {found[1]}, expected {self._width} × {self._height}; "
                "set width and height to a size that `v4l2-ctl --list-formats-ext` lists"
            )
        self._capture = capture
        return self._intrinsics

    def read(self, timeout_s: float) -> Frame | None:
        """OpenCV itself waits up to 10 s for a camera that is there and silent; that ends in a CameraError."""
        if self._capture is None:
            raise CameraError(f"camera {self._device} is not open")
        deadline = self._monotonic() + timeout_s
        while True:
            began = self._monotonic()
            if not self._capture.grab():
                raise CameraError(f"camera {self._device} {self._why_silent()}")
            ended = self._monotonic()
            captured = self._driver_stamp(ended)
            if ended >= deadline or self._is_newest(began, ended, captured):
                break
        stamp_s = self._clock() - (ended - (captured or ended))
        good, image = self._capture.retrieve()
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp_s) if good else None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _is_newest(self, began: float, ended: float, captured: float | None) -> bool:
        """Whether no newer frame can be waiting in the driver's queue."""
        if captured is not None:
            return ended - captured < 1.0 / self._fps
        return ended - began > _QUEUED_S

    def _driver_stamp(self, now: float) -> float | None:
        """When the driver captured the grabbed frame, monotonic [s]; None if it does not say."""
        captured = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        # Some drivers give 0, or count from a start of their own.
        return captured if now - _OLDEST_S < captured <= now else None

    def _why_silent(self) -> str:
        if isinstance(self._device, str) and not os.path.exists(self._device):
            return "is gone: plug it in again, it is reopened by itself"
        return "stopped giving frames: its cable is loose or its USB bus overloaded; it is reopened by itself"
