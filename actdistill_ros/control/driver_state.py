"""What the driver says of itself: after each tick, and when it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from actdistill_ros.arm.backend import JointCommand
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.modes import Mode


@dataclass(frozen=True)
class Tick:
    """command: what to send now; None means damp, never "keep the last one". events: what happened since the last
    tick."""

    command: JointCommand | None
    mode: Mode
    reason: str
    events: tuple[str, ...]


@dataclass(frozen=True)
class DriverState:
    """A snapshot; the fields are those of ArmState.

    tcp_commanded: where the action in progress leads, or where the arm comes to rest; the next action is composed onto
        it. A limp arm's is where it is.
    tcp_measured: None while the motors' answers are not finite.
    chunk_stamp_s, actions_done, actions_left: of the chunk being executed or executed last; 0 before the first.
    """

    mode: Mode
    source: str
    reason: str
    faults: tuple[str, ...]
    tcp_commanded: ArmPose
    tcp_measured: ArmPose | None
    gripper_commanded: float
    gripper_measured: float
    chunk_stamp_s: float
    actions_done: int
    actions_left: int
    feedback_stamp_s: float
