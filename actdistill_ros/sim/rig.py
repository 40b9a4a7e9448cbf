"""The shared world behind the sockets: motor exchange, stage hand and clock, one lock around the physics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.sim.protocol import COMMAND, DRIVE, FAULTS, FEEDBACK, MOTOR_NAMES

_CHECK_EVERY_S = 0.05
_PERIOD_S = 0.1  # what a nudge's step is counted in


class Rig:
    """Thread-safe. The arm can be put somewhere only while its motors are damped: nobody moves an arm under power."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        meshes: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """meshes: see `World`."""
        self.env = TabletopEnv(pixels=None, meshes=meshes)
        self.lock = threading.Lock()
        self._clock, self._monotonic = clock, monotonic
        self._enabled, self._clients = False, 0
        self._faults, self._mute = [0] * len(MOTOR_NAMES), False
        self._rtf_mark = (monotonic(), 0.0)
        self._rtf = 1.0
        self._set_stage_marks()

    def _set_stage_marks(self) -> None:
        self._achieved = False
        self._moving_since: float | None = None
        self._next_check = self.env.world.time_s
        self._now = False

    # -- stage hand
    def reset(self, suite: str, task: str, seed: int, held_out: bool = False) -> dict:
        """Set a scene; raises StagingError for unknown names, ValueError while the motors are under power."""
        with self.lock:
            if self._enabled:
                raise ValueError("the arm's motors are under power; set the arm to idle before the scene is set")
            self.env.reset(suite, task, seed, held_out)
            self.env.world.damp(True)
            self._set_stage_marks()
            task_set = self.env.stage.task
            return {
                "instruction": task_set.instruction,
                "task": task_set.name,
                "suite": suite,
                "seed": seed,
                "max_steps": task_set.max_steps,
            }

    def verdict(self) -> dict:
        """Whether the task has been achieved since the scene was set (it stays achieved), and whether it holds now."""
        with self.lock:
            reason = "achieved" if self._achieved else "not achieved so far"
            return {"success": self._achieved, "now": self._now, "reason": reason}

    def status(self) -> dict:
        with self.lock:
            return {
                "rtf": round(self._rtf, 3),
                "sim_time_s": self.env.world.time_s,
                "motor_clients": self._clients,
                "enabled": self._enabled,
                "instruction": self.env.stage.task.instruction,
                "faults": {n: FAULTS[c] for n, c in zip(MOTOR_NAMES, self._faults, strict=True) if c},
            }

    def inject(self, motor: str | None = None, fault: int = 0, mute: bool | None = None) -> dict:
        """Make a motor report a fault code (0 heals it), or make all motors stop answering."""
        if motor is not None:
            if motor not in MOTOR_NAMES or fault not in FAULTS:
                raise ValueError(
                    f"no motor {motor!r} or fault {fault}; motors: {', '.join(MOTOR_NAMES)}; faults: {sorted(FAULTS)}"
                )
            self._faults[MOTOR_NAMES.index(motor)] = fault
        if mute is not None:
            self._mute = mute
        return {"ok": True}

    # -- motors
    @contextmanager
    def motor_client(self) -> Iterator[None]:
        """Counts who talks to the motors; when the last one goes, they keep their last command, as real ones do."""
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

    @property
    def clients(self) -> int:
        """How many talk to the motors."""
        return self._clients

    def exchange(self, command: bytes) -> bytes | None:
        """One command in, one feedback out; nothing while the motors are mute."""
        driven = len(command) == DRIVE.size
        values = (DRIVE if driven else COMMAND).unpack(command)
        if self._mute:
            return None
        with self.lock:
            world = self.env.world
            enable = any(values[:6]) if driven else bool(values[0])
            if enable and not self._enabled:
                self._moving_since = self._moving_since or world.time_s
            if enable != self._enabled:
                world.damp(not enable)
                self._enabled = enable
            if driven:
                kp, kd, torque = np.array(values[:18]).reshape(3, 6)
                world.drive(kp, kd, torque)
                world.grip(values[18])
            elif enable and np.all(np.isfinite(values)):
                world.command(np.array(values[1:7]), values[7])
            return FEEDBACK.pack(self._clock(), *world.q, *world.velocity, *world.torque, world.gripper, *self._faults)

    # -- time
    def advance(self, seconds: float) -> None:
        with self.lock:
            world = self.env.world
            world.step(seconds)
            if world.time_s >= self._next_check:
                self._next_check = world.time_s + _CHECK_EVERY_S
                self._now = self.env.success()
                self._achieved = self._achieved or self._now
                if self._moving_since is not None:
                    self._nudge(int((world.time_s - self._moving_since) / _PERIOD_S))
            self._measure_rtf()

    def _nudge(self, step: int) -> None:
        if step > self.env.steps:
            self.env.steps = step
            self.env.nudge()

    def _measure_rtf(self) -> None:
        now, (then, sim_then) = self._monotonic(), self._rtf_mark
        sim = self.env.world.time_s
        if sim < sim_then:
            self._rtf_mark = (now, sim)
        elif now - then > 2.0:
            self._rtf = (sim - sim_then) / (now - then)
            self._rtf_mark = (now, sim)
