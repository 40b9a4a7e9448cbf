"""Where a policy and a published benchmark meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Look:
    """What one step of a benchmark shows.

    images: camera name -> (H, W, 3) uint8 RGB as the simulator renders it, before any preprocessing.
    state: what the benchmark calls proprioception, in its units and frames.
    objects: name -> (7,) position [m] and quaternion xyzw in the world's frame. A scripted policy may read them; a
    policy that is judged must not.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str
    objects: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Decision:
    """actions: (K, 7) in the benchmark's own convention, all run before the next look.

    executed: the decoder layers that ran, of all; decoder_ms: how long they took; budget: what they were allowed. Empty
    and None for a policy without a decoder.
    """

    actions: np.ndarray
    executed: Sequence[bool] = ()
    decoder_ms: float | None = None
    budget: float | None = None


class SuitePolicy(Protocol):
    """Acts in a benchmark; used from one thread.

    identity: tells one policy's results from another's when a run is resumed. cameras: those that it looks at; looks in
    the middle of a chunk, and of a policy that names none, have no images. protocol: whose way of judging it is.
    """

    identity: str
    protocol: str
    cameras: tuple[str, ...]

    def begin(self, instruction: str) -> None:
        """A new episode: forget the last one."""

    def act(self, look: Look) -> Decision: ...
