"""What the tests of the arm share: a clock set by hand, an arm that goes where it is told, chunks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from actdistill_ros.arm.backend import JointFeedback
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import settings
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.driver import Driver, Tick
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.pose import rotation_vector

SETTINGS = settings.load()
GRIPPER_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
HOME_Q = X5.chain.solve(ArmPose(np.array([0.25, 0.0, 0.10]), GRIPPER_DOWN), np.array([0.0, 1.5, 1.2, -1.2, 0.0, 0.0])).q


def settings_file(folder: Path, **changes: float) -> Path:
    """The package's own config/arm.yaml with other values at these keys."""
    text = settings.share_file(settings.FILE).read_text()
    for key, number in changes.items():
        text, found = re.subn(rf"\b{key}: \S+", f"{key}: {number}", text)
        assert found == 1, key
    (folder / "arm.yaml").write_text(text)
    return folder / "arm.yaml"


class Clock:
    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A driver with a clock and an arm that reaches every command by the next tick."""

    def __init__(self, **changes) -> None:
        self.settings = replace(SETTINGS, **changes)
        self.clock = Clock()
        self.q, self.gripper, self.faults = HOME_Q.copy(), 1.0, {}
        self.answers = True
        self.feedback = None
        self.driver = Driver(self.settings, self.clock, self.look())
        self.events: list[str] = []
        self.commands: list[np.ndarray] = []

    def look(self) -> JointFeedback:
        if self.answers or self.feedback is None:
            self.feedback = JointFeedback(
                self.q.copy(), np.zeros(6), np.zeros(6), self.gripper, self.clock.now_s, dict(self.faults)
            )
        return self.feedback

    def tick(self, seconds: float | None = None) -> Tick:
        self.clock.now_s += self.settings.tick_s if seconds is None else seconds
        tick = self.driver.tick(self.look())
        self.events += tick.events
        if tick.command is not None:
            self.q, self.gripper = tick.command.position_rad, tick.command.gripper
            self.commands.append(tick.command.position_rad)
        return tick

    def run(self, seconds: float) -> Tick:
        for _ in range(round(seconds / self.settings.tick_s)):
            tick = self.tick()
        return tick

    def activate(self) -> Bench:
        assert self.driver.set_mode(Mode.POLICY) == ""
        self.tick()
        return self

    def chunk(self, *actions, **changes) -> Chunk:
        return replace(chunk(*actions, stamp_s=self.clock.now_s), **changes)

    @property
    def state(self):
        return self.driver.state()


def action(x=0.0, y=0.0, z=0.0, rx=0.0, ry=0.0, rz=0.0, gripper=1.0) -> list[float]:
    return [x, y, z, rx, ry, rz, gripper]


def chunk(*actions, stamp_s: float) -> Chunk:
    rows = np.array(actions or [action()], dtype=float)
    return Chunk(rows, 0.1, len(rows), stamp_s, "put the red block in the bowl", "test")


def turned(now: np.ndarray, before: np.ndarray) -> float:
    """Angle between two rotations [rad]."""
    return float(np.linalg.norm(rotation_vector(now @ before.T)))
