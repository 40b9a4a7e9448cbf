"""From chunks to joint commands, one tick at a time, inside the safety envelope; knows neither ROS nor the arm behind
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actdistill_ros.arm.backend import JointCommand, JointFeedback
from actdistill_ros.contract.chunk import GRIPPER, ROTATION, TRANSLATION, Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import envelope
from actdistill_ros.control.interpolate import Segment, segment
from actdistill_ros.control.kinematics import forward, solve
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.modes import LIMP, RESUMES, Cause, Mode, refusal
from actdistill_ros.control.pose import integrate
from actdistill_ros.control.schedule import Schedule
from actdistill_ros.control.settings import DriverSettings

_BOUNDARY_S = 1e-6
"""An action that ends this soon has ended: sums of ticks are not exact."""


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

    tcp_commanded: where the action in progress leads, or where the arm is held; the next action is composed onto it.
        A limp arm's is where it is.
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


class Driver:
    """Starts idle. Not thread-safe: the owner serialises all calls.

    clock: seconds since the epoch, the clock that stamps observations and feedback.
    """

    def __init__(self, settings: DriverSettings, clock: Callable[[], float], feedback: JointFeedback) -> None:
        self._settings, self._clock, self._feedback = settings, clock, feedback
        self._mode, self._cause, self._reason = Mode.IDLE, Cause.OPERATOR, "waits for a mode: nobody commands yet"
        self._schedule = Schedule()
        self._segment: Segment | None = None
        self._phase_s = 0.0
        self._speed_scale = settings.speed_scale
        self._last_tick_s: float | None = None
        self._starting_since_s: float | None = None
        self._heard_s = self._waiting_since_s = self._clock()
        self._faulty_since_s: float | None = None
        self._faults: tuple[str, ...] = ()
        self._lost = ""
        self._events: list[str] = []
        self._anchor()

    # -- requests
    def offer(self, chunk: Chunk) -> str:
        """Execute this chunk from the next action boundary on. Returns why not; empty if accepted.

        A refused chunk also ends what is left of the one before, and the arm holds: the policy is not to be trusted.
        """
        if self._mode not in (Mode.POLICY, Mode.HOLD) or (self._mode is Mode.HOLD and self._cause not in RESUMES):
            return self._ignored()
        now = self._clock()
        if why := envelope.chunk_refusal(chunk, now, self._schedule.newest_stamp_s, self._settings):
            return self.refuse(why)
        if self._mode is Mode.HOLD:
            if self._faults:
                return self._ignored()
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

    def set_mode(self, mode: Mode, reset: bool = False) -> str:
        """Change the mode. Returns why not; empty if done.

        Leaving a limp mode starts from the measured joints, and no chunk survives a change of mode.
        """
        mode = Mode(mode)
        self._look()
        why = self._lost if mode not in LIMP else ""
        why = why or refusal(self._mode, mode, reset, self._faults)
        if not why and mode not in LIMP and self._mode in LIMP:
            why = envelope.start_refusal(self._feedback, self._settings)
        if why:
            self._events.append(f"mode {mode.name} refused: {why}")
            return why
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
        starting = self._starting()
        self._watch(now)
        command = None
        if self._mode not in LIMP:
            if self._mode is Mode.POLICY and not starting:
                self._advance(now, passed)
            command = JointCommand(self._q.copy(), self._gripper)
        events, self._events = tuple(self._events), []
        return Tick(command, self._mode, self._reason, events)

    def state(self) -> DriverState:
        if self._mode in LIMP:
            self._anchor()
        measured = self._feedback.position_rad
        moving = self._mode is Mode.POLICY or (self._mode is Mode.HOLD and self._cause in RESUMES)
        return DriverState(
            mode=self._mode,
            source="policy" if moving else "",
            reason=self._reason,
            faults=((self._lost,) if self._lost else ()) + self._faults,
            tcp_commanded=self._tcp,
            tcp_measured=forward(measured) if np.isfinite(measured).all() else None,
            gripper_commanded=self._gripper,
            gripper_measured=float(self._feedback.gripper),
            chunk_stamp_s=self._schedule.stamp_s,
            actions_done=self._schedule.done,
            actions_left=self._schedule.left,
            feedback_stamp_s=self._feedback.stamp_s,
        )

    # -- motion
    def _advance(self, now: float, passed_s: float) -> None:
        """Move along the actions for `passed_s` seconds, across as many action boundaries as that takes."""
        start, left_s = self._q, passed_s
        while left_s > _BOUNDARY_S:
            if self._segment is None and not self._begin_action():
                break
            step_s = min(left_s, self._segment.duration_s - self._phase_s)
            self._phase_s += step_s
            left_s -= step_s
            self._q = self._segment.at(self._phase_s)
            if self._segment.duration_s - self._phase_s < _BOUNDARY_S:
                self._q = self._segment.goal
                self._segment = None
                self._schedule.finish()
                if self._schedule.idle:
                    self._waiting_since_s = now
        # The last line: whatever happened above, no command leaves faster than the limit.
        self._q = envelope.limit_step(start, self._q, passed_s + _BOUNDARY_S, self._settings.joint_speed_limit)

    def _begin_action(self) -> bool:
        """Take the next action and plan its joints; False if there is none or it must not run."""
        action = self._schedule.take()
        if action is None:
            return False
        settings, which = self._settings, f"action {self._schedule.taken}"
        wanted = integrate(self._tcp, action[TRANSLATION], action[ROTATION])
        target, cut = envelope.clamp_to_workspace(wanted, self._tcp, settings)
        if cut:
            self._events.append(f"{which}: {cut}")
        solution = solve(target, self._q)
        if why := envelope.solution_refusal(solution, target, self._q, settings):
            self._hold(Cause.REFUSED, f"{which} refused: {why}")
            return False
        wanted_s = self._schedule.period_s / self._speed_scale
        self._segment, self._phase_s = segment(self._q, solution.q, wanted_s, settings.joint_speed_limit), 0.0
        if self._segment.duration_s > wanted_s + _BOUNDARY_S:
            fastest = int(np.argmax(np.abs(solution.q - self._q) / settings.joint_speed_limit))
            self._events.append(
                f"{which} takes {self._segment.duration_s:.3f} s instead of {wanted_s:.3f} s: "
                f"{JOINT_NAMES[fastest]} at its speed limit of {settings.joint_speed_limit[fastest]:.1f} rad/s"
            )
        # The target, not the pose of the solved joints: residuals smaller than the solver's tolerance must not add up.
        self._tcp = target
        self._gripper = float(min(max(action[GRIPPER], 0.0), 1.0))
        return True

    def _starting(self) -> bool:
        """Whether the answers are still those from before the start; the arm may have moved since, so follow them."""
        if self._starting_since_s is None:
            return False
        self._anchor()
        if self._feedback.stamp_s >= self._starting_since_s:
            self._starting_since_s = None
        return self._starting_since_s is not None

    # -- modes
    def _look(self) -> None:
        """What is wrong with the motors now."""
        stale = envelope.feedback_fault(self._feedback, self._clock(), self._settings)
        self._faults = ((stale,) if stale else ()) + (
            envelope.motor_faults(self._feedback) if self._feedback.faults else ()
        )

    def _watch(self, now: float) -> None:
        """Fall back to hold, then to damping, when the motors or the policy give cause."""
        if self._mode in LIMP:
            return
        if self._faults:
            self._watch_fault(now)
            return
        self._faulty_since_s = None
        if why := envelope.astray(self._q, self._feedback.position_rad, self._settings):
            self._hold(Cause.ASTRAY, why)
            self._anchor()
        elif self._mode is Mode.POLICY:
            waiting = self._segment is None and self._schedule.idle
            if waiting and now - self._waiting_since_s > self._settings.chunk_timeout_s:
                self._hold(Cause.SILENT, self._silence(now))
        elif self._cause is Cause.SILENT:
            self._reason = self._silence(now)
        elif self._cause is Cause.FEEDBACK:
            self._reason = "motor feedback is back: waits for the next chunk"

    def _watch_fault(self, now: float) -> None:
        cause = Cause.MOTOR if self._feedback.faults else Cause.FEEDBACK
        if self._faulty_since_s is None:
            self._faulty_since_s = now
        held_s = now - self._faulty_since_s
        if held_s > self._settings.hold_to_damping_s:
            self._change(Mode.DAMPING, f"held for {held_s:.1f} s with a fault: {self._faults[0]}")
        elif self._mode is not Mode.HOLD:
            self._hold(cause, self._faults[0])
        elif cause is Cause.MOTOR or self._cause in RESUMES:
            self._cause, self._reason = cause, self._faults[0]

    def _silence(self, now: float) -> str:
        return f"policy silent for {now - self._heard_s:.1f} s"

    def _ignored(self) -> str:
        return f"chunk ignored: the mode is {self._mode.name} ({self._reason}); ask for mode POLICY first"

    def _hold(self, cause: Cause, reason: str) -> None:
        self._change(Mode.HOLD, reason)
        self._cause = cause

    def _change(self, mode: Mode, reason: str) -> None:
        """No motion and no chunk survives a change of mode."""
        if self._mode in LIMP and mode not in LIMP:
            self._anchor()
            self._faulty_since_s, self._starting_since_s = None, self._clock()
        elif self._segment is not None:
            self._tcp = forward(self._q)  # the action ends where it is, not where it led
        self._segment = None
        self._schedule.drop()
        if mode is Mode.POLICY:
            self._heard_s = self._waiting_since_s = self._clock()
        if (mode, reason) != (self._mode, self._reason):
            self._events.append(f"{mode.name}: {reason}")
        self._mode, self._reason = mode, reason

    def _anchor(self) -> None:
        """Command where the arm is. Never a target from before: it may have been moved by hand or have sunk."""
        # A copy inside the limits: motors rest up to the start tolerance outside theirs.
        self._q = np.clip(np.nan_to_num(self._feedback.position_rad), JOINT_MIN, JOINT_MAX)
        self._tcp = forward(self._q)
        self._gripper = float(min(max(self._feedback.gripper, 0.0), 1.0))
