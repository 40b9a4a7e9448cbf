"""One recorded attempt: what was seen, what was done, and what it was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from actdistill_ros.contract.chunk import ACTION_DIM
from actdistill_ros.contract.contract import STATE_NAMES


class DataError(ValueError):
    """A data set or episode that cannot be used; the text says what was found and how to mend it."""


@dataclass(frozen=True)
class Extra:
    """A further column: shape of one frame's value (() is a number) and its dtype."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if 0 in self.shape or self.shape == (1,) or len(self.shape) > 2:
            raise DataError(
                f"an extra of shape {self.shape} cannot be stored: use () for one number, (k,) or (k, m) with k > 1."
            )


@dataclass(frozen=True)
class Episode:
    """T frames, `1 / fps` apart; frame t's action was commanded after frame t was seen.

    images: camera name -> (T, H, W, 3) uint8 RGB; state: (T, 10) float32 in the order of `STATE_NAMES`;
    action: (T, 7) float32 in the order of `ACTION_NAMES`; seed: the seed the scene was made from;
    extras: name -> (T, …), such as chunk (T, K, 7), the expert's next actions from that very state;
    meta: whatever else describes the episode as JSON values.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    instruction: str
    seed: int
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state)


def check(
    episode: Episode,
    cameras: Mapping[str, tuple[int, int]],
    extras: Mapping[str, Extra],
    state: int = len(STATE_NAMES),
    action: int = ACTION_DIM,
) -> None:
    """Raise DataError unless `episode` has exactly these cameras (name -> (H, W)) and extras, finite, of one length."""
    length = len(episode)
    if not length:
        raise DataError("the episode has no frames; record at least one.")
    if not episode.instruction:
        raise DataError("the episode has no instruction; every episode needs the sentence it carries out.")
    _same_names("cameras", episode.images, cameras)
    _same_names("extras", episode.extras, extras)
    wanted = {"state": ((state,), np.dtype("float32")), "action": ((action,), np.dtype("float32"))}
    wanted |= {name: (extra.shape, np.dtype(extra.dtype)) for name, extra in extras.items()}
    found = {"state": episode.state, "action": episode.action, **episode.extras}
    wanted |= {f"images[{name}]": ((*size, 3), np.dtype("uint8")) for name, size in cameras.items()}
    found |= {f"images[{name}]": image for name, image in episode.images.items()}
    for name, (shape, dtype) in wanted.items():
        value = np.asarray(found[name])
        if value.shape != (length, *shape):
            raise DataError(f"episode {name} is {value.shape}, expected {(length, *shape)}.")
        if not np.can_cast(value.dtype, dtype, "same_kind"):
            raise DataError(f"episode {name} is {value.dtype}, expected {dtype}.")
        if dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(
                f"episode {name} has values that are not finite in frame {int(np.argwhere(~np.isfinite(value))[0, 0])}."
            )


def _same_names(what: str, found: Mapping, expected: Mapping) -> None:
    if set(found) != set(expected):
        raise DataError(
            f"the episode has {what} {sorted(found)}, the data set {sorted(expected)}; record the same ones in both."
        )
