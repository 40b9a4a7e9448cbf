"""The actions commanded just before an observation, as a router is told them: the same of a recorded episode as of a
running policy.

N slots, oldest first, of A + 1 numbers: the action, normalised and clipped to [−1, 1], then 1. A slot before the
episode's start, or of which nothing is known, is all zeros. Commanded is what data sets keep as `action`, and what a
running policy's chunks said: their first `execute` actions, since the next observation is taken when those are done.
"""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.contract import Statistics
from actdistill_ros.contract.observation import Observation
from actdistill_ros.contract.preprocess import normalise

EARLY = 1.0
"""Periods that an observation may come before the chunk's last action is done: its frames may be a little older."""
LATE = 5.0
"""Periods after the chunk's last action from which on an observation is of another moment."""


def slots(actions: np.ndarray, statistics: Statistics) -> np.ndarray:
    """(n, A) actions in metres and radians to (n, A + 1) float32 slots, all known."""
    told = np.clip(normalise(np.asarray(actions, dtype=np.float64), statistics), -1.0, 1.0)
    return np.concatenate([told, np.ones((len(told), 1))], axis=1).astype(np.float32)


def recorded(slots: np.ndarray, first: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """What was commanded before some frames of recorded episodes, (B, count, A + 1).

    slots: (F, A + 1) of all frames' own actions; first: (B,) first frame of each one's episode; frames: (B,).
    """
    before = frames[:, None] - np.arange(count, 0, -1)  # (B, N)
    known = before >= first[:, None]
    return np.where(known[..., None], slots[np.where(known, before, 0)], np.float32(0))  # (B, N, A + 1)


def hide(recent: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """From that share of samples (B, N, A + 1) a part is taken, from the oldest on, or all: as after a start."""
    batch, count = recent.shape[:2]
    taken = np.where(rng.random(batch) < share, rng.integers(1, count + 1, batch), 0)  # (B,)
    return np.where((np.arange(count) < taken[:, None])[..., None], np.float32(0), recent)


class RecentActions:
    """Of a running policy. The next observation belongs to what was done before if it has the same instruction and comes
    when the last chunk's actions are done; else all is forgotten. Not thread-safe."""

    def __init__(self, count: int, statistics: Statistics) -> None:
        self._count, self._statistics = count, statistics
        self._none = np.zeros((count, len(statistics.q01) + 1), dtype=np.float32)
        self.forget()

    def forget(self) -> None:
        """Another episode begins."""
        self._before: np.ndarray = self._none
        self._chunk: Chunk | None = None

    def before(self, observation: Observation) -> np.ndarray:
        """(N, A + 1) float32; changes nothing."""
        if not self._count or self._chunk is None or not _follows(observation, self._chunk):
            return self._none
        done = slots(self._chunk.actions[: self._chunk.execute], self._statistics)
        return np.concatenate([self._before, done])[-self._count :]

    def said(self, chunk: Chunk, before: np.ndarray) -> None:
        """The chunk is what the policy answers to an observation, before which `before` was done; it will be done from now
        on."""
        self._before, self._chunk = before, chunk


def _follows(observation: Observation, chunk: Chunk) -> bool:
    passed = (observation.stamp_s - chunk.stamp_s) / chunk.period_s
    expected = max(0.0, chunk.execute - EARLY) < passed < chunk.execute + LATE
    return expected and observation.instruction == chunk.instruction
