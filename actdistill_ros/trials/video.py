"""A film for people to watch: frames of any size, captioned, to one MP4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from actdistill_ros.data.video import Encoder

CRF = 20
HEIGHT_MIN = 384
"""Small camera pictures are enlarged to this height, so that captions can be read."""
STRIP = 28
INK = (235, 235, 235)
COLOURS = {"success": (60, 200, 90), "failure": (225, 70, 60), "unjudged": (200, 180, 60)}


class Film:
    """`add` frames, then `close`. The first frame decides the size; later ones are fitted to it. No frames, no file."""

    def __init__(self, path: Path | str, fps: int) -> None:
        self._path, self._fps = Path(path), fps
        self._encoder: Encoder | None = None
        self._size = (0, 0)

    @property
    def frames(self) -> int:
        return self._encoder.frames if self._encoder else 0

    def add(self, image: np.ndarray) -> None:
        """One (H, W, 3) uint8 RGB frame."""
        if self._encoder is None:
            height, width = image.shape[:2]
            self._size = (height + height % 2, width + width % 2)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._encoder = Encoder(self._path, *self._size, self._fps, crf=CRF, key_every=self._fps)
        if image.shape[:2] != self._size:
            image = cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)
        self._encoder.write(image)

    def close(self) -> None:
        """Finish the file; may be called twice."""
        if self._encoder is not None:
            self._encoder.close()


def write_mp4(path: Path | str, frames: Iterable[np.ndarray], fps: int) -> int:
    """Write (H, W, 3) uint8 RGB frames to a film at `path`; returns how many there were."""
    film = Film(path, fps)
    try:
        for frame in frames:
            film.add(frame)
    finally:
        film.close()
    return film.frames


def caption(image: np.ndarray, text: str, verdict: str = "") -> np.ndarray:
    """The frame, enlarged if small, with `text` in a strip below it; a verdict colours the strip's left end."""
    height, width = image.shape[:2]
    factor = max(1, -(-HEIGHT_MIN // height))
    picture = cv2.resize(image, (width * factor, height * factor), interpolation=cv2.INTER_NEAREST)
    strip = np.zeros((STRIP, width * factor, 3), np.uint8)
    left = 8
    if verdict:
        label_width = cv2.getTextSize(verdict, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]
        cv2.rectangle(strip, (0, 0), (label_width + 15, STRIP), COLOURS[verdict], -1)
        cv2.putText(strip, verdict, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        left += label_width + 15
    cv2.putText(strip, text, (left, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])
