"""The seam between driver and arm: joint commands in, joint feedback out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from actdistill_ros.arm.error import ArmError

__all__ = ["ArmBackend", "ArmError", "JointCommand", "JointFeedback"]


@dataclass(frozen=True)
class JointCommand:
    """position_rad: (6,) target [rad]; gripper: opening, 0 closed … 1 open; velocity_rad_s: (6,) of the planned motion
    at the target [rad/s], zero where the arm is to stay there."""

    position_rad: np.ndarray
    gripper: float
    velocity_rad_s: np.ndarray = field(default_factory=lambda: np.zeros(6))


@dataclass(frozen=True)
class JointFeedback:
    """What the motors answered.

    position_rad, velocity_rad_s, effort_nm: (6,); gripper: opening, 0 closed … 1 open;
    stamp_s: when the answer was received (never when it was copied: a copy of frozen data looks fresh);
    faults: motor name -> fault in words, empty when all is well;
    answered_s: when each motor answered, the joints' and then the gripper's; empty if all answered at stamp_s.
    """

    position_rad: np.ndarray
    velocity_rad_s: np.ndarray
    effort_nm: np.ndarray
    gripper: float
    stamp_s: float
    faults: dict[str, str]
    answered_s: tuple[float, ...] = ()

    @property
    def motor_stamps_s(self) -> tuple[float, ...]:
        """When each of the seven motors answered, the gripper's last."""
        return self.answered_s or (self.stamp_s,) * 7


class ArmBackend(Protocol):
    """One arm. Called from one thread: `connect`, then `send`/`read` every tick, then `close`."""

    def connect(self) -> JointFeedback:
        """Reach the motors and return where they are; no torque yet. Raises ArmError."""

    def send(self, command: JointCommand) -> None:
        """Position targets for this tick. Never blocks longer than one tick. Raises ArmError if the arm is gone."""

    def read(self) -> JointFeedback:
        """The newest feedback, possibly old: judge it by its stamp. Raises ArmError if the arm is gone."""

    def damp(self) -> None:
        """No position target any more, only damping; safe in every state and never raises."""

    def close(self) -> None:
        """Damp and let go of the arm; may be called twice."""
