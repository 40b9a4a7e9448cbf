"""How punctual the driver's loop is while the policy computes beside it in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actdistill_ros import priority
from actdistill_ros.arm.backend import JointCommand, JointFeedback
from actdistill_ros.bench import policy_load
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.settings import DriverSettings

WARM_UP_S = 1.0


@dataclass(frozen=True)
class Punctuality:
    """late_p50_ms, late_p99_ms, late_max_ms: how much longer than its period a cycle was; missed_ticks: cycles that
    were late by a whole period or more, counted in periods; beside_policy: whether one computed meanwhile; real_time:
    whether the loop's thread had real-time priority."""

    ticks: int
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    missed_ticks: int
    beside_policy: bool
    real_time: bool = False


class EchoArm:
    """An arm that is where it is told to be, and notes when it was asked."""

    def __init__(self, home_rad: np.ndarray, ordinary: bool) -> None:
        """home_rad: (6,) where it is at first. ordinary: take the loop's thread its real-time priority, as where the
        user has no permission."""
        self.asked_s: list[float] = []
        self.real_time: bool | None = None
        self._ordinary = ordinary
        self._command = JointCommand(home_rad.copy(), 1.0)

    def connect(self) -> JointFeedback:
        return self.read()

    def send(self, command: JointCommand) -> None:
        self._command = command

    def read(self) -> JointFeedback:
        self.asked_s.append(time.monotonic())
        if self.real_time is None and len(self.asked_s) > 1:  # the first one was `connect`, in another thread
            if self._ordinary:
                os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
            self.real_time = bool(os.sched_getscheduler(0) & os.SCHED_FIFO)
        at, zero = self._command, np.zeros(6)
        return JointFeedback(at.position_rad, zero, zero, at.gripper, time.time(), {})

    def damp(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure(
    settings: DriverSettings, rate_hz: float, seconds: float, checkpoint: Path | None, ordinary: bool = False
) -> Punctuality:
    """Runs for `seconds` of real time; checkpoint: policy that steps without pause meanwhile; ordinary: without
    real-time priority, whatever this machine allows. Raises ContractError as `check` does."""
    priority.steady()  # as the driver's process does
    arm = EchoArm(settings.arm.home_rad, ordinary)
    loop = DriverLoop(replace(settings, rate_hz=rate_hz), arm)
    with _policy(checkpoint):
        loop.start()
        try:
            loop.set_mode(Mode.POLICY)
            until = time.monotonic() + WARM_UP_S + seconds
            direction = 1.0
            while time.monotonic() < until:
                rows = np.zeros((4, 7))
                rows[:, 0] = 0.01 * direction
                loop.offer(Chunk(rows, 0.1, 4, time.time(), "back and forth", "bench"))
                direction = -direction
                time.sleep(0.4)
        finally:
            loop.stop()
    asked_s = np.array(arm.asked_s[1:])
    asked_s = asked_s[asked_s > asked_s[0] + WARM_UP_S]
    return summarise(np.diff(asked_s), 1.0 / rate_hz, checkpoint is not None, bool(arm.real_time))


def summarise(cycles_s: np.ndarray, period_s: float, beside_policy: bool, real_time: bool = False) -> Punctuality:
    late_s = np.maximum(cycles_s - period_s, 0.0)
    p50, p99 = np.percentile(late_s, (50, 99)) * 1e3
    missed = int(np.sum(np.floor(late_s / period_s + 1e-9)))
    worst_ms = round(float(late_s.max()) * 1e3, 3)
    return Punctuality(len(cycles_s), round(p50, 3), round(p99, 3), worst_ms, missed, beside_policy, real_time)


def check(checkpoint: Path) -> None:
    """Raises ContractError if no policy in this folder can be stepped. In a process of its own: this one stays as
    small as the driver's is."""
    with _policy(checkpoint):
        pass


@contextmanager
def _policy(checkpoint: Path | None) -> Iterator[None]:
    if checkpoint is None:
        yield
        return
    command = [sys.executable, "-m", "actdistill_ros.bench.policy_load", str(checkpoint)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline().strip()
        if said.startswith(policy_load.REFUSED):
            raise ContractError(said.removeprefix(policy_load.REFUSED))
        if said != policy_load.READY:
            raise ContractError(f"--checkpoint {checkpoint} cannot be stepped: {' '.join(command)} shows why.")
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
