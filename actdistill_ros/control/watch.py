"""When the arm stops by itself: what faults, silent sources and an arm that is not where it was told to be call for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.arm.backend import JointFeedback
from actdistill_ros.control import envelope
from actdistill_ros.control.course import Course
from actdistill_ros.control.modes import RESUMES, Cause, Mode
from actdistill_ros.control.operator import Operator
from actdistill_ros.control.settings import DriverSettings


@dataclass(frozen=True)
class Order:
    """mode: HOLD or DAMPING. To an arm that holds already, HOLD only says why it does now.

    here: it holds where the motors say that it is, not where it was told to be.
    """

    mode: Mode
    cause: Cause
    reason: str
    here: bool = False


class Watch:
    """Looks at the motors at every tick, and at who commands them. faults: what is wrong with the motors now."""

    def __init__(self, settings: DriverSettings, operator: Operator, course: Course, now_s: float) -> None:
        self._settings, self._operator, self._course = settings, operator, course
        self._heard_s = now_s
        self._faulty_since_s: float | None = None
        self.faults: tuple[str, ...] = ()

    def look(self, feedback: JointFeedback, now_s: float) -> None:
        stale = envelope.feedback_fault(feedback, now_s, self._settings)
        self.faults = ((stale,) if stale else ()) + (envelope.motor_faults(feedback) if feedback.faults else ())

    def hear(self, now_s: float) -> None:
        """A valid chunk came; the silence of the policy counts from now on."""
        self._heard_s = now_s

    def stiffen(self) -> None:
        """Power comes on: faults count from now on."""
        self._faulty_since_s = None

    def order(
        self, mode: Mode, cause: Cause, reason: str, commanded: np.ndarray, feedback: JointFeedback, now_s: float
    ) -> Order | None:
        """What a stiff arm in this mode must do now; None if it may go on.

        cause, reason: why it holds, if it does. commanded: (6,) joints [rad].
        """
        if self.faults:
            return self._for_faults(mode, cause, feedback, now_s)
        self._faulty_since_s = None
        return self._for_place(commanded, feedback) or self._for_sources(mode, cause, reason, now_s)

    def _for_place(self, commanded: np.ndarray, feedback: JointFeedback) -> Order | None:
        measured = feedback.position_rad
        if why := envelope.astray(commanded, measured, self._settings.tracking_limit_rad):
            return Order(Mode.HOLD, Cause.ASTRAY, f"{why}; it holds where it is", here=True)
        why = envelope.astray(commanded, measured, self._settings.trajectory_tolerance_rad)
        if why and self._course.on_trajectory:
            return Order(Mode.HOLD, Cause.OPERATOR, f"trajectory stopped: {why}")
        return None

    def _for_sources(self, mode: Mode, cause: Cause, reason: str, now_s: float) -> Order | None:
        if mode is Mode.POLICY and self._course.waiting_s(now_s) > self._settings.chunk_timeout_s:
            return Order(Mode.HOLD, Cause.SILENT, self._policy_silence(now_s))
        if mode is not Mode.HOLD:
            return None
        silent_s = now_s - self._heard_s
        if cause in RESUMES and silent_s > self._settings.policy_hold_to_damping_s:
            return Order(Mode.DAMPING, cause, f"no valid chunk for {silent_s:.0f} s: {reason}")
        if cause is Cause.SILENT:
            return Order(Mode.HOLD, cause, self._policy_silence(now_s))
        if cause is Cause.FEEDBACK:
            return Order(Mode.HOLD, cause, "motor feedback is back: waits for the next chunk")
        return self._for_teleop(now_s) if cause is Cause.TELEOP else None

    def _for_teleop(self, now_s: float) -> Order | None:
        silent_s = self._operator.silent_s(now_s)
        if silent_s > self._settings.teleop_hold_to_damping_s:
            return Order(Mode.DAMPING, Cause.TELEOP, f"held for {silent_s:.0f} s: {self.teleop_silence(now_s)}")
        if silent_s > self._settings.teleop_timeout_s:
            return Order(Mode.HOLD, Cause.TELEOP, self.teleop_silence(now_s))
        return None

    def _for_faults(self, mode: Mode, cause: Cause, feedback: JointFeedback, now_s: float) -> Order | None:
        found = Cause.MOTOR if feedback.faults else Cause.FEEDBACK
        if self._faulty_since_s is None:
            self._faulty_since_s = now_s
        held_s = now_s - self._faulty_since_s
        if held_s > self._settings.hold_to_damping_s:
            return Order(Mode.DAMPING, found, f"held for {held_s:.1f} s with a fault: {self.faults[0]}")
        if mode is not Mode.HOLD:
            self._operator.distrust()
            # After stale answers a chunk may go on where chunks moved the arm; an operator presses the switch anew.
            pressed_anew = mode is Mode.TELEOP and found is Cause.FEEDBACK
            return Order(Mode.HOLD, Cause.TELEOP if pressed_anew else found, self.faults[0])
        if found is Cause.MOTOR or cause in RESUMES:
            return Order(Mode.HOLD, found, self.faults[0])
        return None

    def teleop_silence(self, now_s: float) -> str:
        return f"teleop silent for {self._operator.silent_s(now_s):.1f} s: check the teleop node and its device"

    def _policy_silence(self, now_s: float) -> str:
        return f"policy silent for {now_s - self._heard_s:.1f} s"
