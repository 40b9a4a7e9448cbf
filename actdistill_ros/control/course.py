"""The course of the arm: the policy's actions, or the legs of a trajectory, each planned from the motion before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import action_step
from actdistill_ros.control.action_step import ActionStep
from actdistill_ros.control.leg import Leg, Plan, why_longer
from actdistill_ros.control.motion import MotionError
from actdistill_ros.control.mover import Mover
from actdistill_ros.control.schedule import Schedule
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.singularity import dexterity, speed_share

LONGER = 1.05
"""An action that takes more than this share of its time is news."""


class CourseError(RuntimeError):
    """The next action or leg must not be taken; the text says which and why."""


class Course:
    """What the mover is to do next; each `begin_…` runs one plan on it, and `finish` follows when that has ended.

    schedule: the policy's chunks. speed_scale: share of the policy's own speed. say: takes what is worth telling.
    """

    def __init__(self, settings: DriverSettings, mover: Mover, say: Callable[[str], None], now_s: float) -> None:
        self._settings, self._mover, self._say = settings, mover, say
        self.schedule, self.speed_scale = Schedule(), settings.speed_scale
        self.drop(now_s)

    def drop(self, now_s: float) -> None:
        """Forget everything that was to be done."""
        self._acting, self._way = False, []
        self._ahead: ActionStep | None = None
        self._waiting_since_s = now_s
        self.schedule.drop()

    def follow(self, legs: Sequence[Leg]) -> None:
        self._way = list(legs)

    @property
    def on_trajectory(self) -> bool:
        return bool(self._way)

    def waiting_s(self, now_s: float) -> float:
        """For how long the policy's actions are done and no next chunk has come; 0 while there is one."""
        return 0.0 if self._acting or not self.schedule.idle else now_s - self._waiting_since_s

    def finish(self, now_s: float) -> bool:
        """The action or leg in progress has ended. Returns whether a trajectory is done with it."""
        if self._acting:
            self._acting = False
            self.schedule.finish()
            if self.schedule.idle:
                self._waiting_since_s = now_s
        elif self._way:
            self._way.pop(0)
            return not self._way
        return False

    def begin_action(self) -> bool:
        """Take the next action and run its plan; False if there is none. Raises CourseError."""
        action = self.schedule.take()
        if action is None:
            return False
        which, mover = f"action {self.schedule.taken}", self._mover
        step = self._judged(action, mover.tcp, mover.state.q)
        if step.refusal:
            raise CourseError(f"{which} refused: {step.refusal}")
        wanted_s, share = self.schedule.period_s / self.speed_scale, self._singularity_share(step)
        try:
            plan = mover.plan(Leg(step.q, wanted_s / share, straight=True), self._after(step))
        except MotionError as error:
            raise CourseError(f"{which} refused: {error}") from error
        self._tell(which, step, plan, wanted_s, share)
        mover.run(plan)
        # The target, not the pose of the solved joints: residuals smaller than the solver's tolerance must not add up.
        mover.tcp, mover.gripper, self._acting = step.target, step.gripper, True
        return True

    def begin_leg(self) -> bool:
        """Run the plan of the next leg of the trajectory; False if there is none. Raises CourseError."""
        if not self._way:
            return False
        try:
            plan = self._mover.plan(self._way[0], self._way[1] if len(self._way) > 1 else None, slow=True)
        except MotionError as error:
            raise CourseError(f"trajectory stopped: {error}") from error
        self._mover.run(plan)
        self._mover.tcp = self._settings.arm.chain.forward(plan.pieces[-1].goal.q)
        return True

    def _judged(self, action: np.ndarray, start: ArmPose, q: np.ndarray) -> ActionStep:
        if self._ahead is not None and self._ahead.is_for(action, start):
            return self._ahead
        return action_step.judge(action, start, q, self._settings)

    def _after(self, step: ActionStep) -> Leg | None:
        """The leg after this action's, so that the arm need not stop between the two."""
        self._ahead = None
        if (action := self.schedule.peek()) is None:
            return None
        self._ahead = action_step.judge(action, step.target, step.q, self._settings)
        return None if self._ahead.refusal else Leg(self._ahead.q, self.schedule.next_period_s / self.speed_scale)

    def _singularity_share(self, step: ActionStep) -> float:
        """Share of its speed that singularities leave the action."""
        chain = self._settings.arm.chain
        ahead = dexterity(chain, step.q)
        if ahead >= self._settings.singularity_slow_m:
            return 1.0
        return speed_share(dexterity(chain, self._mover.state.q), ahead, self._settings)

    def _tell(self, which: str, step: ActionStep, plan: Plan, wanted_s: float, share: float) -> None:
        if step.cut:
            self._say(f"{which}: {step.cut}")
        if plan.duration_s > LONGER * wanted_s:
            self._say(
                f"{which} takes {plan.duration_s:.3f} s instead of {wanted_s:.3f} s: "
                f"{why_longer(plan, share, self._settings)}"
            )
