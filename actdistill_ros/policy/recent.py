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


class Slots:
    """From actions in metres and radians, (n, A), to slots that are all known, (n, A + 1) float32."""

    def __init__(self, statistics: Statistics) -> None:
        # Normalising is affine: what it makes of 0 and 1 says what it makes of everything. A step has no time for more.
        none, one = (
            normalise(values, statistics) for values in (np.zeros(len(statistics.q01)), np.ones(len(statistics.q01)))
        )
        self._offset, self._span = none, one - none

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        made = np.ones((len(actions), len(self._offset) + 1), dtype=np.float32)
        made[:, :-1] = (actions * self._span + self._offset).clip(-1.0, 1.0)
        return made


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
    """Of a running policy. The next observation belongs to what was done before if it has the same instruction and
    comes when the last chunk's actions are done; else all is forgotten. Not thread-safe."""

    def __init__(self, count: int, statistics: Statistics) -> None:
        self._count, self._slots = count, Slots(statistics)
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
        execute = self._chunk.execute
        done = self._slots(self._chunk.actions[max(0, execute - self._count) : execute])
        return done if len(done) == self._count else np.concatenate([self._before[len(done) :], done])

    def said(self, chunk: Chunk, before: np.ndarray) -> None:
        """The chunk is what the policy answers to an observation, before which `before` was done; it will be done from
        now on."""
        self._before, self._chunk = before, chunk


def _follows(observation: Observation, chunk: Chunk) -> bool:
    passed = (observation.stamp_s - chunk.stamp_s) / chunk.period_s
    expected = max(0.0, chunk.execute - EARLY) < passed < chunk.execute + LATE
    return expected and observation.instruction == chunk.instruction
