"""The node graph as a child process, for as long as trials need it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from actdistill_ros.trials.protocol import TrialsError

UP = (sys.executable, "-m", "actdistill_ros.cli", "up")
STOP_S = 8.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
LINES_SHOWN = 12


class GraphProcess:
    """`actdistill up` with these launch arguments; what it says goes to `log`. Close it, whatever happens."""

    def __init__(self, values: Mapping[str, str], log: Path, command: Sequence[str] = UP) -> None:
        self.log, self._closed = log, False
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [f"{name}:={value}" for name, value in values.items()]
        with open(log, "wb") as out:
            # A session of its own: Ctrl-C must reach the graph through `close` only, after the arm was told to stop.
            self._process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )  # fmt: skip

    def check(self) -> None:
        """Raises TrialsError with the graph's last words if it has ended."""
        if (code := self._process.poll()) is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
            raise TrialsError(
                f"the graph ended with {code}; its last words, all of them in {self.log}:\n" + "\n".join(lines)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, stop_s: float = STOP_S) -> None:
        """Stop the graph in order, and by force if that takes too long; may be called twice."""
        if self._closed:
            return
        self._closed = True
        for number in (signal.SIGINT, signal.SIGTERM):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    self._process.wait(stop_s)
                except subprocess.TimeoutExpired:
                    continue
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
