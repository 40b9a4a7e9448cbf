"""Who commands the arm, and in which mode: requests in, one joint command per tick out; knows neither ROS nor the arm
behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actdistill_ros.arm.backend import JointCommand, JointFeedback
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control import envelope, operator
from actdistill_ros.control.course import Course, CourseError
from actdistill_ros.control.driver_state import DriverState, Tick
from actdistill_ros.control.modes import LIMP, RESUMES, Cause, Mode, refusal
from actdistill_ros.control.mover import Mover
from actdistill_ros.control.operator import Operator, Twist
from actdistill_ros.control.power import Power
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.trajectory import JudgedWay
from actdistill_ros.control.watch import Watch

HELD = "teleop commands the arm: the dead-man is held"
RELEASED = "teleop has the arm and stands still: the dead-man is not held"


class Driver:
    """Starts idle. Not thread-safe: the owner serialises all calls.

    clock: seconds since the epoch, the clock that stamps observations and feedback.
    """

    def __init__(self, settings: DriverSettings, clock: Callable[[], float], feedback: JointFeedback) -> None:
        self._settings, self._clock, self._feedback = settings, clock, feedback
        self._mode, self._cause, self._reason = Mode.IDLE, Cause.OPERATOR, "waits for a mode: nobody commands yet"
        self._events: list[str] = []
        self._mover, self._operator, self._power = Mover(settings), Operator(settings), Power()
        self._course = Course(settings, self._mover, self._events.append, clock())
        self._watch = Watch(settings, self._operator, self._course, clock())
        self._last_tick_s: float | None = None
        self._lost = self._slowed = ""
        self._anchor()

    # -- requests
    def offer(self, chunk: Chunk) -> str:
        """Execute this chunk from the next action boundary on. Returns why not; empty if accepted.

        A refused chunk also ends what is left of the one before, and the arm holds: the policy is not to be trusted.
        """
        if self._mode not in (Mode.POLICY, Mode.HOLD) or (self._mode is Mode.HOLD and self._cause not in RESUMES):
            return self._ignored("chunk", "ask for mode POLICY first")
        now = self._clock()
        if why := envelope.chunk_refusal(chunk, now, self._course.schedule.newest_stamp_s, self._settings):
            return self.refuse(why)
        if self._mode is Mode.HOLD:
            if self._watch.faults:
                return self._ignored("chunk", "ask for mode POLICY first")
            self._change(Mode.POLICY, "a valid chunk ended the hold")
        self._course.schedule.offer(chunk)
        self._watch.hear(now)
        return ""

    def refuse(self, why: str) -> str:
        """A chunk could not even be read (another frame, no numbers): treat it as any refused chunk; returns the
        reason."""
        reason = f"chunk refused: {why}"
        if self._mode is Mode.POLICY or (self._mode is Mode.HOLD and self._cause in (Cause.SILENT, Cause.REFUSED)):
            self._hold(Cause.REFUSED, reason)
        return reason

    def jog(self, twist: Twist) -> str:
        """Move the TCP like this while the dead-man is held. Returns why not; empty if accepted."""
        now = self._clock()
        if why := operator.twist_refusal(twist, now, self._settings):
            return self.refuse_teleop(why)
        self._operator.hear_twist(twist, now)
        return ""

    def deadman(self, held: bool) -> None:
        """The operator's switch; held, it takes the arm from the policy at the next tick. To be repeated."""
        self._operator.hear_deadman(held, self._clock())

    def refuse_teleop(self, why: str) -> str:
        """Teleop said something that makes no sense: the arm holds, and the dead-man must be pressed anew."""
        reason = f"teleop refused: {why}"
        self._operator.distrust()
        if self._mode is Mode.TELEOP:
            self._hold(Cause.TELEOP, reason)
        return reason

    def grip(self, opening: float) -> str:
        """The operator's wish for the gripper, 0 closed … 1 open. Returns why not; empty if accepted."""
        if not envelope.is_opening(opening, self._settings):
            return f"gripper refused: opening is {opening}, expected 0 (closed) … 1 (open)"
        if self._mode not in (Mode.TELEOP, Mode.HOLD) or self._watch.faults:
            return self._ignored("gripper command", "ask for mode HOLD or TELEOP first")
        self._mover.gripper = float(min(max(opening, 0.0), 1.0))
        return ""

    def follow(self, way: JudgedWay) -> str:
        """Take the way of a planning tool, then hold. Returns why not; empty if accepted."""
        if self._mode not in (Mode.TELEOP, Mode.HOLD) or self._watch.faults or self._operator.holds(self._clock()):
            return self._ignored("trajectory", "ask for mode HOLD first and let go of the dead-man")
        rests_there = self._mover.resting and np.array_equal(way.start_q, self.joints)
        if self._course.on_trajectory or not rests_there:
            return "trajectory ignored: the arm is still moving; ask for mode HOLD and wait until it rests"
        self._change(Mode.TELEOP, "follows arm/joint_trajectory")
        self._course.follow(way.legs)
        return ""

    @property
    def joints(self) -> np.ndarray:
        """(6,) commanded now [rad]: where a trajectory must start."""
        return self._mover.state.q

    @property
    def stopping(self) -> bool:
        return self._mover.stopping

    def set_mode(self, mode: Mode, reset: bool = False) -> str:
        """Change the mode. Returns why not; empty if done.

        Leaving a limp mode starts from the measured joints, and no chunk survives a change of mode. A dead-man that is
        held meanwhile counts only after it was let go.
        """
        mode = Mode(mode)
        self._watch.look(self._feedback, self._clock())
        why = self._lost if mode not in LIMP else ""
        why = why or refusal(self._mode, mode, reset, self._watch.faults, self._operator.holds(self._clock()))
        if not why and mode not in LIMP and self._mode in LIMP:
            why = envelope.start_refusal(self._feedback, self._settings)
        if why:
            self._events.append(f"mode {mode.name} refused: {why}")
            return why
        self._operator.distrust()
        if mode is Mode.HOLD:
            self._hold(Cause.OPERATOR, "asked to hold")
        else:
            self._change(mode, "reset" if reset else "asked for")
        return ""

    def set_speed_scale(self, scale: float) -> None:
        """Share of the policy's own speed, from the next action on. Raises ValueError outside 0 (exclusive) … 1."""
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"speed scale is {scale}, expected above 0 and at most 1")
        self._course.speed_scale = float(scale)

    def lose(self, why: str) -> None:
        """The arm cannot be reached any more: damp until the owner makes a new driver on a new connection."""
        self._lost = f"ERROR: {why}"
        self._change(Mode.DAMPING, self._lost)

    # -- the cycle
    def tick(self, feedback: JointFeedback) -> Tick:
        """One cycle at `settings.rate_hz`; the command carries the motion of the time since the tick before."""
        now = self._clock()
        tick_s = self._settings.tick_s
        # A late tick slows the motion: never catch up with a jump. A clock that steps back stops it for that tick.
        passed = tick_s if self._last_tick_s is None else now - self._last_tick_s
        passed = min(max(passed, 0.0), self._settings.late_ticks * tick_s)
        self._last_tick_s = now
        self._feedback = feedback
        self._watch.look(feedback, now)
        if coming := self._power.waiting:
            self._anchor()
            coming = self._power.coming(feedback.stamp_s)
        self._obey(now)
        self._arbitrate(now)
        command = None
        if self._mode in LIMP or self._power.unheard:
            self._power.damp(now)
        else:
            if not coming:
                self._move(now, passed)
            command = JointCommand(self._mover.state.q.copy(), self._mover.gripper, self._mover.state.v.copy())
        events = tuple(self._events)
        self._events.clear()
        return Tick(command, self._mode, self._reason, events)

    def state(self) -> DriverState:
        if self._mode in LIMP:
            self._anchor()
        measured = self._feedback.position_rad
        return DriverState(
            mode=self._mode,
            source=self._source(),
            reason=self._reason,
            faults=((self._lost,) if self._lost else ()) + self._watch.faults,
            tcp_commanded=self._mover.tcp,
            tcp_measured=self._settings.arm.chain.forward(measured) if np.isfinite(measured).all() else None,
            gripper_commanded=self._mover.gripper,
            gripper_measured=float(self._feedback.gripper),
            chunk_stamp_s=self._course.schedule.stamp_s,
            actions_done=self._course.schedule.done,
            actions_left=self._course.schedule.left,
            feedback_stamp_s=self._feedback.stamp_s,
        )

    def _source(self) -> str:
        """Who would move the arm now."""
        if self._mode is Mode.TELEOP:
            return "trajectory" if self._course.on_trajectory else "teleop"
        return "policy" if self._mode is Mode.POLICY or (self._mode is Mode.HOLD and self._cause in RESUMES) else ""

    # -- motion
    def _move(self, now: float, passed_s: float) -> None:
        if self._mode is Mode.TELEOP and self._operator.holds(now):
            why = self._mover.jog(self._operator.twist(now, self._mover.tcp.rotation), passed_s)
            if why and why != self._slowed:
                self._events.append(why)
            self._slowed, self._reason = why, why or HELD
            return
        self._mover.advance(passed_s, self._next_piece, lambda: self._piece_done(now))

    def _next_piece(self) -> bool:
        try:
            if self._mode is Mode.POLICY:
                return self._course.begin_action()
            return self._mode is Mode.TELEOP and self._course.begin_leg()
        except CourseError as error:
            self._hold(Cause.REFUSED if self._mode is Mode.POLICY else Cause.OPERATOR, str(error))
            return False

    def _piece_done(self, now: float) -> None:
        if self._course.finish(now):
            self._hold(Cause.OPERATOR, "the trajectory is done")

    # -- modes
    def _arbitrate(self, now: float) -> None:
        """The operator's dead-man goes before the policy; a stop and a fault go before the operator."""
        if self._mode in LIMP or self._watch.faults:
            return
        holds = self._operator.holds(now)
        if holds and (self._mode is not Mode.TELEOP or self._course.on_trajectory):
            taken_from = self._source() or self._mode.name
            self._change(Mode.TELEOP, f"teleop took over from {taken_from}: the dead-man is held")
        elif self._mode is Mode.TELEOP and not self._course.on_trajectory and not holds:
            if self._operator.silent_s(now) > self._settings.teleop_timeout_s:
                self._hold(Cause.TELEOP, self._watch.teleop_silence(now))
            else:
                self._reason = RELEASED

    def _obey(self, now: float) -> None:
        """Fall back to hold, then to damping, when the motors or who commands them give cause."""
        if self._mode in LIMP:
            return
        order = self._watch.order(self._mode, self._cause, self._reason, self._mover.state.q, self._feedback, now)
        if order is None:
            return
        if order.mode is not Mode.HOLD:
            self._change(order.mode, order.reason)
        elif self._mode is not Mode.HOLD or order.here:
            self._hold(order.cause, order.reason)
            if order.here:
                self._anchor()
        else:
            self._cause, self._reason = order.cause, order.reason

    def _ignored(self, what: str, remedy: str) -> str:
        return f"{what} ignored: the mode is {self._mode.name} ({self._reason}); {remedy}"

    def _hold(self, cause: Cause, reason: str) -> None:
        self._change(Mode.HOLD, reason)
        self._cause = cause

    def _change(self, mode: Mode, reason: str) -> None:
        """No goal survives a change of mode: the arm comes to rest, or moves on from the motion that it has."""
        if mode in LIMP or self._mode in LIMP:
            self._anchor()
        else:
            self._mover.brake()
        if mode in LIMP and self._mode not in LIMP:
            self._power.off()
        elif self._mode in LIMP and mode not in LIMP:
            self._watch.stiffen()
            self._power.on(self._clock())
        self._slowed = ""
        self._course.drop(self._clock())
        if mode is Mode.POLICY:
            self._watch.hear(self._clock())
        elif mode is Mode.TELEOP:
            self._operator.expect(self._clock())
        if (mode, reason) != (self._mode, self._reason):
            self._events.append(f"{mode.name}: {reason}")
        self._mode, self._reason = mode, reason

    def _anchor(self) -> None:
        """Command where the arm is. Never a target from before: it may have been moved by hand or have sunk."""
        self._mover.rest_at(self._feedback.position_rad)
        self._mover.gripper = float(min(max(self._feedback.gripper, 0.0), 1.0))
