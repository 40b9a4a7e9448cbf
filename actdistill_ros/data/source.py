"""What a data set from elsewhere gives, whatever layout it has on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from actdistill_ros.data.episode import DataError


@dataclass(frozen=True)
class Field:
    """One column as the data set declares it: shape of one frame's value, dtype, names of its elements if it has any.

    kind: "image", "text" or "number"; an image's shape is (H, W, channels).
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str = "number"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Recorded:
    """One episode of T frames as it was recorded.

    values: column -> (T, …) float64, or (T,) str for text; frames: column -> its T images, (H, W, 3) uint8 RGB, decoded
    while one goes through them; size_bytes: what the episode takes on disk, 0 if unknown.
    """

    index: int
    values: Mapping[str, np.ndarray]
    frames: Callable[[str], Iterator[np.ndarray]]
    length: int
    size_bytes: int = 0


class Source(Protocol):
    """A foreign data set, read from front to back.

    fps is None where the layout does not say it, frames is None where only reading everything would tell.
    """

    folder: Path
    fields: Mapping[str, Field]
    fps: float | None
    robot: str
    episodes: int
    frames: int | None
    size_bytes: int

    def check(self, keys: Sequence[str]) -> None:
        """Raises DataError if a file that holds one of these columns is missing or cut off."""

    def read(self, keys: Sequence[str], wanted: Callable[[int], bool]) -> Iterator[Recorded]:
        """The wanted episodes in order, with these columns; raises DataError at the first that is damaged."""

    def fingerprint(self) -> str:
        """Changes when the data set does."""


def decode_image(data: bytes, where: str) -> np.ndarray:
    """JPEG or PNG bytes to (H, W, 3) uint8 RGB; DataError if they are cut off, damaged, or no colour image."""
    ends = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}
    end = ends.get(bytes(data[:2]))
    if end is None:
        raise DataError(f"{where} is neither JPEG nor PNG (it begins with {bytes(data[:4])!r}).")
    # The decoder fills the rest of a picture that was cut off with grey and says nothing.
    image = None if end not in data[-64:] else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{where} cannot be decoded; it was cut off or damaged, copy the data set again.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError(f"{where} is {image.shape} {image.dtype}, expected a colour image of 8 bits per channel.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def describe(fields: Mapping[str, Field]) -> str:
    """The columns by kind, for a user who named one that is not there."""
    text = []
    for kind, plural in (("image", "images"), ("number", "numbers"), ("text", "texts")):
        found = [f"{key} {list(field.shape)}" for key, field in fields.items() if field.kind == kind]
        text.append(f"{plural}: {', '.join(found) or 'none'}")
    return "; ".join(text)
