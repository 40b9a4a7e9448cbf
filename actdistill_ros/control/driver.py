"""From chunks, jogs and trajectories to joint commands, one tick at a time, inside the safety envelope; knows neither
ROS nor the arm behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actdistill_ros.arm.backend import JointCommand, JointFeedback
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import action_step, envelope, operator
from actdistill_ros.control.action_step import ActionStep
from actdistill_ros.control.driver_state import DriverState, Tick
from actdistill_ros.control.kinematics import forward
from actdistill_ros.control.leg import Leg, why_longer
from actdistill_ros.control.modes import LIMP, RESUMES, Cause, Mode, refusal
from actdistill_ros.control.motion import MotionError
from actdistill_ros.control.mover import Mover
from actdistill_ros.control.operator import Operator, Twist
from actdistill_ros.control.power import Power
from actdistill_ros.control.schedule import Schedule
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.singularity import dexterity, speed_share
from actdistill_ros.control.trajectory import JudgedWay

LONGER = 1.05
"""An action that takes more than this share of its time is news."""
HELD = "teleop commands the arm: the dead-man is held"
RELEASED = "teleop has the arm and stands still: the dead-man is not held"


class Driver:
    """Starts idle. Not thread-safe: the owner serialises all calls.

    clock: seconds since the epoch, the clock that stamps observations and feedback.
    """

    def __init__(self, settings: DriverSettings, clock: Callable[[], float], feedback: JointFeedback) -> None:
        self._settings, self._clock, self._feedback = settings, clock, feedback
        self._mode, self._cause, self._reason = Mode.IDLE, Cause.OPERATOR, "waits for a mode: nobody commands yet"
        self._mover, self._schedule, self._operator = Mover(settings), Schedule(), Operator(settings)
        self._acting, self._power = False, Power()
        self._ahead: ActionStep | None = None
        self._way: list[Leg] = []
        self._speed_scale = settings.speed_scale
        self._last_tick_s: float | None = None
        self._heard_s = self._waiting_since_s = self._clock()
        self._faulty_since_s: float | None = None
        self._faults: tuple[str, ...] = ()
        self._lost = self._slowed = ""
        self._events: list[str] = []
        self._anchor()

    # -- requests
    def offer(self, chunk: Chunk) -> str:
        """Execute this chunk from the next action boundary on. Returns why not; empty if accepted.

        A refused chunk also ends what is left of the one before, and the arm holds: the policy is not to be trusted.
        """
        if self._mode not in (Mode.POLICY, Mode.HOLD) or (self._mode is Mode.HOLD and self._cause not in RESUMES):
            return self._ignored("chunk", "ask for mode POLICY first")
        now = self._clock()
        if why := envelope.chunk_refusal(chunk, now, self._schedule.newest_stamp_s, self._settings):
            return self.refuse(why)
        if self._mode is Mode.HOLD:
            if self._faults:
                return self._ignored("chunk", "ask for mode POLICY first")
            self._change(Mode.POLICY, "a valid chunk ended the hold")
        self._schedule.offer(chunk)
        self._heard_s = now
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
        if self._mode not in (Mode.TELEOP, Mode.HOLD) or self._faults:
            return self._ignored("gripper command", "ask for mode HOLD or TELEOP first")
        self._gripper = float(min(max(opening, 0.0), 1.0))
        return ""

    def follow(self, way: JudgedWay) -> str:
        """Take the way of a planning tool, then hold. Returns why not; empty if accepted."""
        if self._mode not in (Mode.TELEOP, Mode.HOLD) or self._faults or self._operator.holds(self._clock()):
            return self._ignored("trajectory", "ask for mode HOLD first and let go of the dead-man")
        if self._way or not self._mover.resting or not np.array_equal(way.start_q, self._mover.state.q):
            return "trajectory ignored: the arm is still moving; ask for mode HOLD and wait until it rests"
        self._change(Mode.TELEOP, "follows arm/joint_trajectory")
        self._way = list(way.legs)
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
        self._look()
        why = self._lost if mode not in LIMP else ""
        why = why or refusal(self._mode, mode, reset, self._faults, self._operator.holds(self._clock()))
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
        self._speed_scale = float(scale)

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
        self._look()
        if coming := self._power.waiting:
            self._anchor()
            coming = self._power.coming(feedback.stamp_s)
        self._watch(now)
        self._arbitrate(now)
        command = None
        if self._mode in LIMP or self._power.unheard:
            self._power.damp(now)
        else:
            if not coming:
                self._move(now, passed)
            command = JointCommand(self._mover.state.q.copy(), self._gripper, self._mover.state.v.copy())
        events, self._events = tuple(self._events), []
        return Tick(command, self._mode, self._reason, events)

    def state(self) -> DriverState:
        if self._mode in LIMP:
            self._anchor()
        measured = self._feedback.position_rad
        return DriverState(
            mode=self._mode,
            source=self._source(),
            reason=self._reason,
            faults=((self._lost,) if self._lost else ()) + self._faults,
            tcp_commanded=self._mover.tcp,
            tcp_measured=forward(measured) if np.isfinite(measured).all() else None,
            gripper_commanded=self._gripper,
            gripper_measured=float(self._feedback.gripper),
            chunk_stamp_s=self._schedule.stamp_s,
            actions_done=self._schedule.done,
            actions_left=self._schedule.left,
            feedback_stamp_s=self._feedback.stamp_s,
        )

    def _source(self) -> str:
        """Who would move the arm now."""
        if self._mode is Mode.TELEOP:
            return "trajectory" if self._way else "teleop"
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
        if self._mode is Mode.POLICY:
            return self._begin_action()
        return self._mode is Mode.TELEOP and bool(self._way) and self._begin_leg()

    def _piece_done(self, now: float) -> None:
        if self._acting:
            self._acting = False
            self._schedule.finish()
            if self._schedule.idle:
                self._waiting_since_s = now
        elif self._way:
            self._way.pop(0)
            if not self._way:
                self._hold(Cause.OPERATOR, "the trajectory is done")

    def _begin_action(self) -> bool:
        """Take the next action and plan its joints; False if there is none or it must not run."""
        action = self._schedule.take()
        if action is None:
            return False
        which, mover = f"action {self._schedule.taken}", self._mover
        step = self._judged(action, mover.tcp, mover.state.q)
        if step.refusal:
            self._hold(Cause.REFUSED, f"{which} refused: {step.refusal}")
            return False
        wanted_s = self._schedule.period_s / self._speed_scale
        ahead = dexterity(step.q)
        close = ahead < self._settings.singularity_slow_m
        share = speed_share(dexterity(mover.state.q), ahead, self._settings) if close else 1.0
        try:
            plan = mover.plan(Leg(step.q, wanted_s / share, straight=True), self._after(step))
        except MotionError as error:
            self._hold(Cause.REFUSED, f"{which} refused: {error}")
            return False
        if step.cut:
            self._events.append(f"{which}: {step.cut}")
        if plan.duration_s > LONGER * wanted_s:
            self._events.append(f"{which} takes {plan.duration_s:.3f} s instead of {wanted_s:.3f} s: "
                                f"{why_longer(plan, share, self._settings)}")  # fmt: skip
        mover.run(plan)
        # The target, not the pose of the solved joints: residuals smaller than the solver's tolerance must not add up.
        mover.tcp, self._gripper, self._acting = step.target, step.gripper, True
        return True

    def _judged(self, action: np.ndarray, start: ArmPose, q: np.ndarray) -> ActionStep:
        if self._ahead is not None and self._ahead.is_for(action, start):
            return self._ahead
        return action_step.judge(action, start, q, self._settings)

    def _after(self, step: ActionStep) -> Leg | None:
        """The leg after this action's, so that the arm need not stop between the two."""
        self._ahead = None
        if (action := self._schedule.peek()) is None:
            return None
        self._ahead = action_step.judge(action, step.target, step.q, self._settings)
        return None if self._ahead.refusal else Leg(self._ahead.q, self._schedule.next_period_s / self._speed_scale)

    def _begin_leg(self) -> bool:
        try:
            plan = self._mover.plan(self._way[0], self._way[1] if len(self._way) > 1 else None, slow=True)
        except MotionError as error:
            self._hold(Cause.OPERATOR, f"trajectory stopped: {error}")
            return False
        self._mover.run(plan)
        self._mover.tcp = forward(plan.pieces[-1].goal.q)
        return True

    # -- modes
    def _arbitrate(self, now: float) -> None:
        """The operator's dead-man goes before the policy; a stop and a fault go before the operator."""
        if self._mode in LIMP or self._faults:
            return
        holds = self._operator.holds(now)
        if holds and (self._mode is not Mode.TELEOP or self._way):
            taken_from = self._source() or self._mode.name
            self._change(Mode.TELEOP, f"teleop took over from {taken_from}: the dead-man is held")
        elif self._mode is Mode.TELEOP and not self._way and not holds:
            if self._operator.silent_s(now) > self._settings.teleop_timeout_s:
                self._hold(Cause.TELEOP, self._teleop_silence(now))
            else:
                self._reason = RELEASED

    def _look(self) -> None:
        """What is wrong with the motors now."""
        stale = envelope.feedback_fault(self._feedback, self._clock(), self._settings)
        self._faults = ((stale,) if stale else ()) + (
            envelope.motor_faults(self._feedback) if self._feedback.faults else ()
        )

    def _watch(self, now: float) -> None:
        """Fall back to hold, then to damping, when the motors or who commands them give cause."""
        if self._mode in LIMP:
            return
        if self._faults:
            self._watch_fault(now)
            return
        self._faulty_since_s = None
        commanded, measured = self._mover.state.q, self._feedback.position_rad
        if why := envelope.astray(commanded, measured, self._settings.tracking_limit_rad):
            self._hold(Cause.ASTRAY, f"{why}; it holds where it is")
            self._anchor()
        elif self._way and (why := envelope.astray(commanded, measured, self._settings.trajectory_tolerance_rad)):
            self._hold(Cause.OPERATOR, f"trajectory stopped: {why}")
        elif self._mode is Mode.POLICY:
            waiting = not self._acting and self._schedule.idle
            if waiting and now - self._waiting_since_s > self._settings.chunk_timeout_s:
                self._hold(Cause.SILENT, self._silence(now))
        elif self._mode is Mode.HOLD:
            self._watch_hold(now)

    def _watch_hold(self, now: float) -> None:
        if self._cause in RESUMES and now - self._heard_s > self._settings.policy_hold_to_damping_s:
            self._change(Mode.DAMPING, f"no valid chunk for {now - self._heard_s:.0f} s: {self._reason}")
        elif self._cause is Cause.SILENT:
            self._reason = self._silence(now)
        elif self._cause is Cause.FEEDBACK:
            self._reason = "motor feedback is back: waits for the next chunk"
        elif self._cause is Cause.TELEOP:
            silent_s = self._operator.silent_s(now)
            if silent_s > self._settings.teleop_hold_to_damping_s:
                self._change(Mode.DAMPING, f"held for {silent_s:.0f} s: {self._teleop_silence(now)}")
            elif silent_s > self._settings.teleop_timeout_s:
                self._reason = self._teleop_silence(now)

    def _watch_fault(self, now: float) -> None:
        cause = Cause.MOTOR if self._feedback.faults else Cause.FEEDBACK
        if self._faulty_since_s is None:
            self._faulty_since_s = now
        held_s = now - self._faulty_since_s
        if held_s > self._settings.hold_to_damping_s:
            self._change(Mode.DAMPING, f"held for {held_s:.1f} s with a fault: {self._faults[0]}")
        elif self._mode is not Mode.HOLD:
            # After stale answers a chunk may go on where chunks moved the arm; an operator presses the switch anew.
            self._hold(
                Cause.TELEOP if self._mode is Mode.TELEOP and cause is Cause.FEEDBACK else cause, self._faults[0]
            )
            self._operator.distrust()
        elif cause is Cause.MOTOR or self._cause in RESUMES:
            self._cause, self._reason = cause, self._faults[0]

    def _silence(self, now: float) -> str:
        return f"policy silent for {now - self._heard_s:.1f} s"

    def _teleop_silence(self, now: float) -> str:
        return f"teleop silent for {self._operator.silent_s(now):.1f} s: check the teleop node and its device"

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
            self._faulty_since_s = None
            self._power.on(self._clock())
        self._acting, self._ahead, self._way, self._slowed = False, None, [], ""
        self._schedule.drop()
        if mode is Mode.POLICY:
            self._heard_s = self._waiting_since_s = self._clock()
        elif mode is Mode.TELEOP:
            self._operator.expect(self._clock())
        if (mode, reason) != (self._mode, self._reason):
            self._events.append(f"{mode.name}: {reason}")
        self._mode, self._reason = mode, reason

    def _anchor(self) -> None:
        """Command where the arm is. Never a target from before: it may have been moved by hand or have sunk."""
        self._mover.rest_at(self._feedback.position_rad)
        self._gripper = float(min(max(self._feedback.gripper, 0.0), 1.0))
