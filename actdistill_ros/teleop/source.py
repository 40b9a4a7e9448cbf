"""What every teleop source says, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class SourceError(ValueError):
    """A source that cannot be used as it was asked for; the text says how to mend it."""


class SourceLost(RuntimeError):
    """The source went away while it was used (closed, unplugged, silent); the text says what was seen."""


@dataclass(frozen=True)
class Intent:
    """What the operator wants now.

    deadman: whether it is held; without it nothing moves. motion: (6,) share of the jog speed along and about x, y, z,
    -1 … 1, or None from a source that only has switches. gripper: opening to go to, 0 closed … 1 open, or None.
    stop: the emergency stop is pressed. tool: the motion is in the frame of the tool; None: the frame that was set.
    joints: (6,) of a leader arm [rad], or None from a source that is none.
    """

    deadman: bool
    motion: np.ndarray | None = None
    gripper: float | None = None
    stop: bool = False
    tool: bool | None = None
    joints: np.ndarray | None = None


class Source(Protocol):
    """One device, read many times a second; reading never blocks."""

    loss_is_stop: bool
    """Whether losing it is an emergency stop: so it is for a device that carries the button."""

    def read(self, now_s: float) -> Intent | None:
        """What is wanted now; None while nothing is heard yet. Raises SourceLost."""

    def close(self) -> None:
        """Leave the device as it was found; may be called twice."""
