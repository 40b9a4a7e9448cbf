"""A thread per camera that keeps it open, reads it as fast as it comes and hands on each newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from actdistill_ros.camera.source import CameraError, Frame, FrameSource, Intrinsics


@dataclass(frozen=True)
class Health:
    """How a camera stands.

    problem: why there are no frames, empty while they come; since_s: when that problem or the good state began [s];
    last_stamp_s: capture time of the newest frame, 0 if there never was one; frames, outages: counted since the start.
    """

    problem: str
    since_s: float
    last_stamp_s: float
    frames: int
    outages: int


class CameraThread:
    """Reads one source in a thread; a source that is gone is closed and opened again until it is back.

    `on_frame(frame, intrinsics)` runs in the camera's thread, right after the capture: publish there, not on a timer.
    `on_health(health)` runs in the same thread whenever `problem` changes.
    """

    def __init__(
        self,
        source: FrameSource,
        on_frame: Callable[[Frame, Intrinsics], None],
        on_health: Callable[[Health], None],
        silent_s: float = 1.0,
        reopen_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._on_frame, self._on_health = source, on_frame, on_health
        self._silent_s, self._reopen_s, self._clock = silent_s, reopen_s, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._intrinsics: Intrinsics | None = None
        # Replaced as a whole and only by one thread at a time; readers need no lock.
        self.health = Health("not opened yet", clock(), 0.0, 0, 0)

    def open(self) -> Intrinsics:
        """Open the source now, in the caller's thread, so that a wrong device is refused. Raises CameraError."""
        self._intrinsics = self._source.open()
        self._note(problem="")
        return self._intrinsics

    def start(self) -> None:
        """Begin to read, after `open`."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and let go of the camera; may be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._silent_s + 2.0)
        self._source.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._intrinsics is None:
                    self._intrinsics = self._source.open()
                self._read()
            except Exception as error:  # whatever it is, a thread that ends would leave a camera that seems well
                self._source.close()
                self._intrinsics = None
                self._note(problem=str(error) if isinstance(error, CameraError) else f"camera failed: {error!r}")
                self._stop.wait(self._reopen_s)

    def _read(self) -> None:
        frame = self._source.read(self._silent_s)
        if self._stop.is_set():
            return
        if frame is None:
            self._note(problem=f"no frame within {self._silent_s:g} s")
            return
        self._note(problem="", frame=frame)
        self._on_frame(frame, self._intrinsics)

    def _note(self, problem: str, frame: Frame | None = None) -> None:
        old = self.health
        changed = problem != old.problem
        self.health = Health(
            problem,
            self._clock() if changed and bool(problem) != bool(old.problem) else old.since_s,
            frame.stamp_s if frame else old.last_stamp_s,
            old.frames + (frame is not None),
            old.outages + bool(problem and not old.problem),
        )
        if changed:
            self._on_health(self.health)
