"""Frames of a video file, paced as if a camera gave them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from actdistill_ros.camera.source import CameraError, Frame, Intrinsics


class VideoFile:
    """A video file that plays once or over and over; a `FrameSource`.

    fps: pace, or 0 for the file's own; a reader that is late skips frames, as with a camera.
    width, height: size the frames are scaled to by area, or 0 for the file's own.
    """

    def __init__(
        self,
        path: Path,
        fps: float = 0.0,
        loop: bool = True,
        width: int = 0,
        height: int = 0,
        intrinsics: Intrinsics | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._fps, self._loop = Path(path), fps, loop
        self._size, self._calibration = (width, height), intrinsics
        self._clock, self._sleep = clock, sleep
        self._capture: cv2.VideoCapture | None = None
        self._next: np.ndarray | None = None

    def open(self) -> Intrinsics:
        if not self._path.is_file():
            raise CameraError(f"video file {self._path} is not there; give the path of an existing video")
        capture = cv2.VideoCapture(str(self._path))
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not capture.isOpened() or capture.get(cv2.CAP_PROP_FRAME_WIDTH) < 1:
            raise CameraError(f"{self._path} is no video that OpenCV reads; convert it (ffmpeg -i … out.mp4)")
        self._period_s = 1.0 / (self._fps or rate or 30.0)
        width = self._size[0] or int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = self._size[1] or int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._size = (width, height)
        self._capture, self._next, self._due_s = capture, None, self._clock()
        return self._calibration or Intrinsics(height, width, 0.0, 0.0, 0.0, 0.0)

    def read(self, timeout_s: float) -> Frame | None:
        if self._capture is None:
            raise CameraError(f"video file {self._path} is not open")
        # Decoded before it is due: a camera needs no time for that after the capture.
        if self._next is None:
            self._next = self._decode()
        wait_s = self._due_s - self._clock()
        if wait_s > 0:
            self._sleep(min(wait_s, timeout_s))
        if wait_s > timeout_s:
            return None
        # The capture time is when the frame was due, not when the reader woke up: the pace must not depend on the load.
        late = max(0, int((self._clock() - self._due_s) / self._period_s))
        image = self._decode(late) if late else self._next
        stamp_s = self._due_s + late * self._period_s
        self._next, self._due_s = None, stamp_s + self._period_s
        return Frame(image, stamp_s)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _decode(self, ahead: int = 1) -> np.ndarray:
        """The frame `ahead` frames on, RGB; at the end from the start again. Raises CameraError when all is over."""
        for _ in range(ahead):
            if not self._capture.grab():
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                if not self._loop or not self._capture.grab():
                    raise CameraError(f"video file {self._path} is over; set loop to play it again")
        image = cv2.cvtColor(self._capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        return image
