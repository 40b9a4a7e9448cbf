"""Starts the processes of a graph, shows what they say, and never leaves one behind."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from actdistill_ros.bringup import DRIVER, Graph, NodeSpec, find_executable
from actdistill_ros.launch_arguments import BringupError
from actdistill_ros.run_folder import RunFolder

READY_S = 60.0
"""How long a process may take to say that it is ready; the first picture of a simulated camera compiles its shaders."""
HOLD_S = 0.5
DEADLINES_S = ((2.6, 3.2), (4.0, 4.4), (4.6, 4.8))
"""When SIGINT and SIGKILL follow on SIGTERM, counted from the wish to stop: masters of the arm, driver, its world."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def locate(node: NodeSpec) -> Path:
    """The executable of a node: beside the Python that runs now, or where ROS installed it."""
    beside = Path(sysconfig.get_path("scripts")) / node.executable
    if node.package == "actdistill_ros" and beside.is_file():
        return beside
    if found := find_executable(node.package, node.executable):
        return found
    raise BringupError(
        f"executable {node.executable} is neither in {beside.parent} nor below AMENT_PREFIX_PATH. Run make setup."
    )


def ending(code: int) -> str:
    """How a process ended that had this return code, in words."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


@dataclass
class Running:
    """One started process and what is known of it."""

    spec: NodeSpec
    process: subprocess.Popen
    partial: bytes = b""
    last_line: str = ""
    ready: bool = False
    open: bool = True

    def ending(self) -> str:
        """How it ended, in words."""
        how = ending(self.process.returncode)
        return f"{self.spec.name} {how}" + (f": {self.last_line}" if self.last_line else "")


class Supervisor:
    """Runs one graph until a signal comes or a process ends. Belongs to the main thread, because signals do."""

    def __init__(
        self,
        graph: Graph,
        folder: RunFolder,
        hold: Callable[[float], bool],
        environment: Mapping[str, str] = os.environ,
        find: Callable[[NodeSpec], Path] = locate,
        out: TextIO = sys.stdout,
    ) -> None:
        """`hold(timeout_s)` tells the driver to hold and says whether it agreed. Raises BringupError: no executable."""
        self._graph, self._folder, self._hold, self._out = graph, folder, hold, out
        self._commands = {node.name: self._command(node, find(node)) for node in graph.nodes}
        self._environment = {**environment, **graph.environment, "PYTHONUNBUFFERED": "1"}
        self._running: list[Running] = []
        self._selector = selectors.DefaultSelector()
        self._signal = 0

    def _command(self, node: NodeSpec, executable: Path) -> list[str]:
        if not node.ros:
            return [str(executable), *node.arguments]
        parameters = self._folder.write_parameters(node.name, node.parameters)
        return [str(executable), *node.arguments, *self._graph.ros_arguments(node, parameters)]

    def run(self) -> int:
        """0 after SIGINT, SIGTERM or SIGHUP; 1 after a process ended by itself. No process is left when it returns."""
        before = self._catch_signals()
        try:
            reason = self._start() or self._watch()
        finally:
            self._stop()
            self._release_signals(before)
        if reason:
            self._say(f"{reason}. The whole graph was stopped.")
        return 1 if reason else 0

    def _catch_signals(self) -> dict:
        """Signals only wake the loop; nothing happens inside a handler."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake = (reader, writer)
        self._selector.register(reader, selectors.EVENT_READ, None)

        def note(number: int, _frame: object) -> None:
            self._signal = self._signal or number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        before["wakeup"] = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        return before

    def _release_signals(self, before: dict) -> None:
        signal.set_wakeup_fd(before.pop("wakeup"))
        for number, handler in before.items():
            signal.signal(number, handler)
        self._selector.close()
        for end in self._wake:
            end.close()

    def _start(self) -> str:
        """Start every process in order; returns why that failed, or nothing."""
        for node in self._graph.nodes:
            if self._signal:
                return ""
            running = self._launch(node)
            until = time.monotonic() + READY_S
            while node.ready and not running.ready and not self._signal:
                if reason := self._pump(until - time.monotonic()):
                    return reason
                if time.monotonic() > until:
                    return f"{node.name} did not say {node.ready!r} within {READY_S:.0f} s"
        return ""

    def _launch(self, node: NodeSpec) -> Running:
        me = os.getpid()

        def tie_to_me() -> None:
            # If this process dies in whatever way, the kernel ends the child; its driver then holds and damps the arm.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != me:
                os._exit(1)

        process = subprocess.Popen(
            self._commands[node.name],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tie_to_me,
        )
        os.set_blocking(process.stdout.fileno(), False)
        running = Running(node, process)
        self._running.append(running)
        self._selector.register(process.stdout, selectors.EVENT_READ, running)
        return running

    def _watch(self) -> str:
        """Returns when a signal came (nothing) or an essential process ended (how)."""
        while not self._signal:
            if reason := self._pump(None):
                return reason
        return ""

    def _pump(self, timeout_s: float | None) -> str:
        """Pass on what the processes say for at most `timeout_s`; returns how an essential one ended, or nothing."""
        for key, _ in self._selector.select(timeout_s if timeout_s is None else max(0.0, timeout_s)):
            if key.data is None:
                self._wake[0].recv(4096)
            else:
                self._read(key.data)
        for running in self._running:
            if running.process.poll() is not None and running.spec.essential:
                self._read(running)
                return running.ending()
        return ""

    def _read(self, running: Running) -> None:
        while running.open:
            try:
                data = os.read(running.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            if not data:
                running.open = False
                self._selector.unregister(running.process.stdout)
            *lines, running.partial = (running.partial + data).split(b"\n")
            if not data and running.partial:
                lines.append(running.partial)
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                running.ready |= text == running.spec.ready
                running.last_line = text or running.last_line
                self._print(f"[{running.spec.name}] {text}")

    def _stop(self) -> None:
        """The arm holds; then its masters end, then the driver, then the world that its motors live in."""
        begin = time.monotonic()
        names = [running.spec.name for running in self._running if running.process.poll() is None]
        if DRIVER in names and len(names) > 1 and not self._hold(HOLD_S):
            self._say(f"{DRIVER} did not confirm that it holds; it damps the arm when it ends")
        order = [node.name for node in self._graph.nodes]
        driver = order.index(DRIVER) if DRIVER in order else 0
        ranks: tuple[list[Running], ...] = ([], [], [])
        for running in self._running:
            position = order.index(running.spec.name)
            ranks[0 if position > driver else 1 if position == driver else 2].append(running)
        for rank, (interrupt_s, kill_s) in zip(ranks, DEADLINES_S, strict=True):
            self._end(rank, begin + interrupt_s, begin + kill_s)

    def _end(self, rank: list[Running], interrupt: float, kill: float) -> None:
        """SIGTERM to the processes' groups, SIGINT for tools that know only that, SIGKILL to what is left of any group.

        SIGTERM comes first because a Python that is still importing answers SIGINT with a traceback.
        """
        for number, until in ((signal.SIGTERM, interrupt), (signal.SIGINT, kill)):
            left = [running for running in rank if running.process.poll() is None]
            for running in left:
                self._kill(running, number)
            while any(running.process.poll() is None for running in left) and time.monotonic() < until:
                self._pump(until - time.monotonic())
        for running in rank:
            if running.process.poll() is None:
                self._say(f"{running.spec.name} did not end in time and was killed")
            # The group may hold children that outlived their parent.
            self._kill(running, signal.SIGKILL)
            running.process.wait()
            self._read(running)
            if running.open:
                self._selector.unregister(running.process.stdout)
                running.open = False
            running.process.stdout.close()

    @staticmethod
    def _kill(running: Running, number: int) -> None:
        try:
            os.killpg(running.process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def _say(self, text: str) -> None:
        self._print(f"[bringup] {text}")

    def _print(self, text: str) -> None:
        """A reader that went away must not keep the arm from being stopped in order."""
        try:
            print(text, file=self._out, flush=True)
        except (BrokenPipeError, ValueError):
            self._signal = self._signal or signal.SIGPIPE
