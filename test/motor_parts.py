"""Motors on a real socket, as simple as the protocol allows: they are where they were last told to be."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Listener
from pathlib import Path

from arm_parts import HOME_Q

from actdistill_ros.sim.protocol import COMMAND, FEEDBACK, MOTORS, endpoint


class Motors:
    """Serves one client after the other in a thread. enabled, q, gripper: of the newest command."""

    def __init__(self, folder: Path) -> None:
        self.enabled, self.q, self.gripper = None, HOME_Q.tolist(), 1.0
        self.faults = [0] * 7
        self.answers = True
        self.stamp_shift_s = 0.0
        self.answer = None  # bytes instead of feedback
        self.log: list[tuple[int, tuple[float, ...]]] = []
        self._ended = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._listener = Listener(endpoint(folder, MOTORS), family="AF_UNIX")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                with self._listener.accept() as self._connection:
                    while not self._ended.is_set():
                        self._running.wait()
                        if self._connection.poll(0.005):
                            self._take(self._connection.recv_bytes())
            except (EOFError, OSError):
                continue

    def _take(self, data: bytes) -> None:
        self.enabled, *self.q_wanted, gripper = COMMAND.unpack(data)
        self.log.append((self.enabled, tuple(self.q_wanted)))
        if self.enabled:
            self.q, self.gripper = self.q_wanted, gripper
        if self.answers:
            self._connection.send_bytes(self.answer or self.feedback())

    def feedback(self) -> bytes:
        stamp_s = time.time() + self.stamp_shift_s
        return FEEDBACK.pack(stamp_s, *self.q, *[0.0] * 12, self.gripper, *self.faults)

    def pause(self) -> None:
        """As a world that is stuck: connected, but nobody reads."""
        self._running.clear()

    def go_on(self) -> None:
        self._running.set()

    def close(self) -> None:
        """As a world that dies: nobody listens any more, and whoever is connected is cut off."""
        self._listener.close()
        self._ended.set()
