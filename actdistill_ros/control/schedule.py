"""Which action is next: the chunk being executed, and the one that takes over at the next action boundary."""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.chunk import Chunk


class Schedule:
    """Counts through the first `execute` actions of a chunk. A newer chunk replaces the rest between two actions."""

    def __init__(self) -> None:
        self._chunk: Chunk | None = None
        self._next: Chunk | None = None
        self._taken = 0
        self._done = 0
        self._limit = 0

    def offer(self, chunk: Chunk) -> None:
        """The newest offer wins."""
        self._next = chunk

    def take(self) -> np.ndarray | None:
        """The next action (7,), or None if there is nothing to do; the caller reports it back with `finish`."""
        if self._next is not None:
            self._chunk, self._next = self._next, None
            self._taken = self._done = 0
            self._limit = self._chunk.execute
        if self._chunk is None or self._taken >= self._limit:
            return None
        self._taken += 1
        return self._chunk.actions[self._taken - 1]

    def peek(self) -> np.ndarray | None:
        """What `take` would give now, without taking it."""
        chunk, taken = (self._next, 0) if self._next is not None else (self._chunk, self._taken)
        if chunk is None or (chunk is self._chunk and taken >= self._limit):
            return None
        return chunk.actions[taken]

    @property
    def next_period_s(self) -> float:
        """Period of the action that `take` would give now."""
        chunk = self._next or self._chunk
        return chunk.period_s if chunk else 0.0

    def finish(self) -> None:
        """The action taken last has been executed."""
        self._done = self._taken

    def drop(self) -> None:
        """Forget what is left of this chunk and of the next one."""
        self._next = None
        self._limit = self._done

    @property
    def idle(self) -> bool:
        """Nothing taken that is not finished, nothing left to take."""
        return self._next is None and self.left == 0

    @property
    def period_s(self) -> float:
        return self._chunk.period_s if self._chunk else 0.0

    @property
    def stamp_s(self) -> float:
        """Observation stamp of the chunk being executed or executed last [s]; 0 before the first."""
        return self._chunk.stamp_s if self._chunk else 0.0

    @property
    def newest_stamp_s(self) -> float:
        return self._next.stamp_s if self._next else self.stamp_s

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def done(self) -> int:
        return self._done

    @property
    def left(self) -> int:
        return self._limit - self._done
