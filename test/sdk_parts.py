"""What the tests of the vendor SDK share: an emulated bus in a process of its own, an arm on it, and its frame log."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arm_parts import SETTINGS

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.backend import JointCommand
from actdistill_ros.arm.emulated.process import BusProcess
from actdistill_ros.arm.sdk_arm import SdkArm
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import Mode

SDK = sdk_settings.load()
START = np.array([0.0, 1.0, 1.0, -0.5, 0.0, 0.0])
WAIT_S = 30.0
NOBODY = 2**22 + 1  # more than any process id


def until(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = WAIT_S):
    """The condition's value once it is true. what: a callable is asked when the wait was in vain."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what() if callable(what) else what}"
        time.sleep(0.002)
    return found


class Bus(BusProcess):
    """An emulated bus, and what was made on it, closed with it."""

    def __init__(self, folder: Path, model: str = "X5", start: np.ndarray = START, world: Path | None = None) -> None:
        super().__init__(folder, model, start.tolist(), world)
        self._closing: list = []

    def arm(self, model: str = "", **changes) -> SdkArm:
        arm = super().arm(replace(SDK, model=model or self.model, **changes))
        self._closing.append(arm.close)
        return arm

    def loop(self) -> DriverLoop:
        """A driver that ticks on this arm, idle."""
        loop = DriverLoop(replace(SETTINGS, model=self.model), self.arm())
        self._closing.append(loop.stop)
        loop.start()
        return loop

    def processes(self) -> dict[str, int]:
        """Process ids of `guard` and `sdk_child` on this bus, found by their command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            for name in ("guard", "sdk_child"):
                if f"actdistill_ros.arm.{name}".encode() in words and self._mine(name, words, int(entry.name)):
                    found[name] = int(entry.name)
        return found

    def _mine(self, name: str, words: list[bytes], pid: int) -> bool:
        if name == "guard":
            return str(self.folder).encode() in words
        try:
            return f"CANBUS_FOLDER={self.folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def close(self) -> None:
        for close in reversed(self._closing):
            close()
        gone = until(lambda: not self.processes(), "guard and SDK process to end")
        super().close()
        assert gone


@pytest.fixture
def bus(tmp_path):
    bus = Bus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture
def l5(tmp_path):
    bus = Bus(tmp_path, "L5")
    yield bus
    bus.close()


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    bus = Bus(tmp_path_factory.mktemp("bus"))
    yield bus, bus.loop()
    bus.close()


@pytest.fixture
def held(living):
    """One arm for many faults: healed, reached again by a reset if it was lost, and holding."""
    bus, loop = living
    bus.inject(heal=True, late_s=0.0, bus_off=False)
    reached(loop)
    until(lambda: not loop.state().driver.faults, "a healthy arm")
    until(lambda: not any(c.kp for c in bus.last_commands().values()), "an arm without the power of the test before")
    holding(loop, bus)
    return bus, loop


def reached(loop: DriverLoop) -> None:
    """The driver has found an arm that was lost; it tries until it does, as an operator would."""
    until(lambda: loop.set_mode(Mode.IDLE, reset=True) == "", "the arm")


def holding(loop: DriverLoop, bus: Bus) -> DriverLoop:
    """The driver holds the arm under power."""
    assert loop.set_mode(Mode.HOLD) == ""
    until(bus.stiff, "power")
    return loop


def fault_of(loop: DriverLoop, words: str, mode: Mode | None = None):
    """The driver's state once a fault with these words is reported."""

    def found():
        state = loop.state().driver
        return state if any(words in fault for fault in state.faults) and mode in (None, state.mode) else None

    return until(found, lambda: f"a fault {words!r}; now {loop.state().driver}")


def sweep(arm: SdkArm, seconds: float, start: np.ndarray = START, turn: float = 0.2) -> None:
    """Move every joint by `turn` and back at the driver's rate, as a driver would."""
    begin, ticks = time.monotonic(), round(seconds / 0.01)
    for tick in range(ticks):
        at = start + turn * (1.0 - np.cos(2.0 * np.pi * tick / ticks)) / 2.0
        arm.send(JointCommand(at, 1.0))
        time.sleep(max(0.0, begin + (tick + 1) * 0.01 - time.monotonic()))
        arm.read()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
