"""The commanded motion: where the joints are in it, and the piece that is being run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actdistill_ros.control import envelope, leg
from actdistill_ros.control.jog import Jogger
from actdistill_ros.control.leg import Leg, Plan
from actdistill_ros.control.motion import JointState, MotionError, MotionLimits, Planner, Segment, inside_limits
from actdistill_ros.control.room import Room
from actdistill_ros.control.settings import DriverSettings

BOUNDARY_S = 1e-6
"""A piece that ends this soon has ended: sums of ticks are not exact."""
TRAJECTORY_SHARE = 0.3
"""Share of the acceleration and jerk limits that a trajectory of a planning tool may use."""


class Mover:
    """Moves only in pieces that were planned from the motion before them, so that nothing is a jump.

    tcp: the commanded pose: where the piece in progress leads, or where the arm rests. gripper: its commanded opening,
        0 closed … 1 open.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._settings, self._chain = settings, settings.arm.chain
        self._planner = _planner(settings, settings.joint_speed_limit, 1.0)
        self._slow = _planner(settings, settings.trajectory_speed_limit, TRAJECTORY_SHARE)
        self._jogger = Jogger(settings, self._planner)
        self._jogging = False
        self.gripper = 0.0
        self.rest_at(np.zeros(6))

    def rest_at(self, q: np.ndarray) -> None:
        """The arm is there and does not move: the only way to change the command without a motion."""
        # Inside the limits: motors rest up to the start tolerance outside theirs.
        self.state = JointState.at_rest(inside_limits(np.nan_to_num(q)))
        self.segment: Segment | None = None
        self._later: list[Segment] = []
        self._phase_s = 0.0
        self._jogging = False
        self._room: Room | None = None
        self.tcp = self._chain.forward(self.state.q)

    @property
    def resting(self) -> bool:
        return self.segment is None and self.state.resting

    @property
    def stopping(self) -> bool:
        """Whether the piece in progress only ends the motion before it."""
        return self.segment is not None and self.segment.stops

    def brake(self) -> None:
        """Come to rest as soon as the limits allow; does nothing to an arm at rest, whose pose stays as commanded."""
        self._jogging = False
        if self.state.resting:
            self.segment, self._later = None, []
            return
        try:
            self.run(Plan((self._planner.stop(self.state),)))
            self.tcp = self._chain.forward(self.segment.goal.q)
        except MotionError:
            self.rest_at(self.state.q)  # where no stop can be planned, standing still at once is what is left

    def run(self, plan: Plan) -> None:
        self.segment, *self._later = plan.pieces
        self._phase_s, self._jogging = 0.0, False

    def plan(self, to: Leg, after: Leg | None, slow: bool = False) -> Plan:
        """From the motion now along `to`; goes on at its end if there is a leg `after`. Raises MotionError."""
        planner = self._slow if slow else self._planner
        return leg.plan(planner, self.state, to, after, self._room_now(), self._planner)

    def _room_now(self) -> Room:
        """Where the arm may be from now on; an arm that was started outside may not go back there."""
        if self._room is None:
            self._room = Room.around(self.state.q, self._settings, self._planner.limits)
        self._room = self._room.after(self.state.q)
        return self._room

    def advance(self, seconds: float, next_piece: Callable[[], bool], done: Callable[[], None]) -> None:
        """Move along the pieces for that long, across as many of their ends as that takes.

        next_piece: runs a plan and says so; where it does not, an arm in motion brakes. done: a plan has ended.
        """
        start, left_s = self.state.q, seconds
        while left_s > BOUNDARY_S:
            if self.segment is None and not next_piece():
                self.brake()
                if self.segment is None:
                    break
            step_s = min(left_s, self.segment.duration_s - self._phase_s)
            self._phase_s += step_s
            left_s -= step_s
            self.state = self.segment.at(self._phase_s)
            if self.segment.duration_s - self._phase_s < BOUNDARY_S:
                self.state, self.segment = self.segment.goal, None
                if self._later:
                    self.segment, self._phase_s = self._later.pop(0), 0.0
                else:
                    done()
        self._last_line(start, seconds)

    def jog(self, twist: np.ndarray, seconds: float) -> str:
        """One tick along the twist (6,) in `base_link` [m/s, rad/s]; what slows or stops it, in words."""
        if not self._jogging:
            # The rest of a piece leads nowhere any more: the pose that is jogged is where the joints are.
            self._jogger.start(self.state)
            self.segment, self._later, self._jogging, self.tcp = None, [], True, self._chain.forward(self.state.q)
        start = self.state.q
        try:
            step = self._jogger.step(self.state, self.tcp, twist, seconds, self._room_now())
        except MotionError as error:
            self.brake()
            return f"jog stopped: {error}"
        self.state, self.tcp = step.state, step.tcp
        self._last_line(start, seconds)
        return step.why

    def _last_line(self, start: np.ndarray, seconds: float) -> None:
        """Whatever happened above, no command leaves faster than the limit or outside the joints' range."""
        q = envelope.limit_step(start, self.state.q, seconds + BOUNDARY_S, self._settings.joint_speed_limit)
        if not np.array_equal(q, self.state.q):
            self.state = JointState(q, self.state.v, self.state.a)


def _planner(settings: DriverSettings, speed: np.ndarray, share: float) -> Planner:
    acceleration = np.full(6, settings.joint_acceleration_limit_rad_s2 * share)
    return Planner(MotionLimits(speed, acceleration, np.full(6, settings.joint_jerk_limit_rad_s3 * share)))
