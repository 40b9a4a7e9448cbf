"""Jerk-limited motion of the six joints, from any state of motion to the next (planned by Ruckig)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN

JOINTS = 6
GENTLENESS = (0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.0)
"""Shares of the acceleration and jerk limits to try: a plan takes 3 µs, so looking for the gentlest is affordable."""


class MotionError(RuntimeError):
    """No motion within the limits leads there; the text says from where to where."""


@dataclass(frozen=True)
class JointState:
    """Commanded motion at one time: q [rad], v [rad/s], a [rad/s²], (6,) each."""

    q: np.ndarray
    v: np.ndarray
    a: np.ndarray

    @staticmethod
    def at_rest(q: np.ndarray) -> JointState:
        return JointState(q, np.zeros(JOINTS), np.zeros(JOINTS))

    @property
    def resting(self) -> bool:
        return not (self.v.any() or self.a.any())


@dataclass(frozen=True)
class MotionLimits:
    """speed [rad/s], acceleration [rad/s²], jerk [rad/s³], (6,) each."""

    speed: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


@dataclass(frozen=True)
class Segment:
    """One planned piece of motion; `goal` is its exact end, where the motion may go on; stops: it does nothing but end
    the motion before it."""

    goal: JointState
    duration_s: float
    trajectory: Trajectory
    stops: bool = False

    def at(self, phase_s: float) -> JointState:
        """The motion `phase_s` after the start; from its end on it goes on evenly, or rests exactly at the goal."""
        if phase_s >= self.duration_s:
            goal, beyond_s = self.goal, phase_s - self.duration_s
            return JointState(goal.q + goal.v * beyond_s, goal.v, goal.a) if beyond_s and goal.v.any() else goal
        q, v, a = self.trajectory.at_time(phase_s)
        return JointState(np.array(q), np.array(v), np.array(a))

    def stays_within(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether no joint leaves low … high (6,) [rad] on the way."""
        return all(
            low[i] <= extrema.min and extrema.max <= high[i]
            for i, extrema in enumerate(self.trajectory.position_extrema)
        )


class Planner:
    """Plans within the limits from any state, so that no change of plan is a jump. Not thread-safe."""

    def __init__(self, limits: MotionLimits) -> None:
        self.limits = limits
        self._otg, self._input = Ruckig(JOINTS), InputParameter(JOINTS)

    def reach(self, start: JointState, goal: np.ndarray, speed: np.ndarray, wanted_s: float) -> Segment:
        """To the joints `goal` (6,) [rad], passed at `speed` (6,) [rad/s], in `wanted_s` or as much longer as it takes;
        as gently as that time allows.

        Raises MotionError.
        """
        parameters = self._from(start)
        parameters.control_interface = ControlInterface.Position
        parameters.synchronization = Synchronization.Time
        parameters.target_position, parameters.target_velocity = goal, speed
        parameters.minimum_duration = wanted_s
        limits = self._straight(goal - start.q) if start.resting and not speed.any() else self.limits
        parameters.max_velocity = limits.speed
        for share in GENTLENESS:
            parameters.max_acceleration, parameters.max_jerk = limits.acceleration * share, limits.jerk * share
            segment = self._plan(JointState(goal, speed, np.zeros(JOINTS)))
            if segment.duration_s <= wanted_s + 1e-9:
                break
        return segment

    def run_at(self, start: JointState, speed: np.ndarray) -> Segment:
        """To the joint speeds `speed` (6,) [rad/s], as soon as the limits allow. Raises MotionError."""
        parameters = self._from(start)
        parameters.control_interface = ControlInterface.Velocity
        # Each joint as soon as it can: one that waits for the slowest would need more way to stop.
        parameters.synchronization = Synchronization.No
        parameters.max_velocity = self.limits.speed
        parameters.max_acceleration, parameters.max_jerk = self.limits.acceleration, self.limits.jerk
        speed = np.clip(speed, -self.limits.speed, self.limits.speed)
        parameters.target_velocity, parameters.minimum_duration = speed, None
        segment = self._plan(start)
        # At rest means exactly at rest.
        ends_at = np.array(segment.trajectory.at_time(segment.duration_s)[0])
        return replace(segment, goal=JointState(ends_at, speed, np.zeros(JOINTS)))

    def stop(self, start: JointState) -> Segment:
        """To rest, as soon as the limits allow. Raises MotionError."""
        return replace(self.run_at(start, np.zeros(JOINTS)), stops=True)

    def stop_way(self, speed: np.ndarray) -> np.ndarray:
        """(6,) way [rad] that a joint at this speed and without acceleration needs to come to rest."""
        speed, a, j = np.abs(speed), self.limits.acceleration, self.limits.jerk
        return speed * np.where(speed * j >= a * a, 0.5 * (speed / a + a / j), np.sqrt(speed / j))

    def _straight(self, way: np.ndarray) -> MotionLimits:
        """The limits in proportion to each joint's way: from rest to rest all joints then go in one phase, straight."""
        share = np.maximum(np.abs(way) / max(float(np.max(np.abs(way))), 1e-12), 1e-3)
        return MotionLimits(
            *(
                share * np.min(limit / share)
                for limit in (self.limits.speed, self.limits.acceleration, self.limits.jerk)
            )
        )

    def _from(self, start: JointState) -> InputParameter:
        if not np.isfinite(start.q.sum() + start.v.sum() + start.a.sum()):
            raise MotionError(f"motion from joints {start.q} rad at {start.v} rad/s: not finite")
        self._input.current_position, self._input.current_velocity = start.q, start.v
        self._input.current_acceleration = start.a
        self._input.target_acceleration = np.zeros(JOINTS)
        return self._input

    def _plan(self, goal: JointState) -> Segment:
        trajectory = Trajectory(JOINTS)
        try:
            result = self._otg.calculate(self._input, trajectory)
        except RuckigError as error:
            raise MotionError(f"no motion within the limits: {error}") from error
        if result not in (Result.Working, Result.Finished):
            raise MotionError(f"no motion within the limits: {result}")
        return Segment(goal, trajectory.duration, trajectory)


def stopping_ways(v: np.ndarray, a: np.ndarray, limits: MotionLimits, points: int) -> np.ndarray:
    """(points, T, 6) how far each joint still turns [rad]: the first of what `stops` gives."""
    return stops(v, a, limits, points)[0]


def stops(v: np.ndarray, a: np.ndarray, limits: MotionLimits, points: int) -> tuple[np.ndarray, np.ndarray]:
    """How far each joint still turns [rad] and how fast it is [rad/s] at `points` even times of the stop from each
    motion, (points, T, 6) each.

    v: (T, 6) [rad/s]; a: (T, 6) [rad/s²]. The stops are those of `Planner.stop`, the last point is their end: limited
    jerk up to an acceleration against the motion, that acceleration for a while, limited jerk back to none.
    """
    j, most = limits.jerk, limits.acceleration
    against = np.where(v + a * np.abs(a) / (2.0 * j) > 0.0, -1.0, 1.0)  # (T, 6)
    speed, grows = against * v, against * a  # with this sign the speed is to grow to zero
    peak = np.sqrt(np.maximum(0.5 * grows * grows - j * speed, 0.0))
    hold_s = np.maximum((peak * peak - most * most) / (j * most), 0.0)
    peak = np.minimum(peak, most)
    ramps_s = (np.maximum(peak - grows, 0.0) / j, hold_s, peak / j)
    left_s = np.linspace(1.0 / points, 1.0, points)[:, None, None] * np.max(sum(ramps_s), axis=1, keepdims=True)
    way = np.zeros(left_s.shape[:1] + v.shape)  # (K, T, 6)
    for jerk, ramp_s in zip((j, 0.0, -j), ramps_s):
        t = np.minimum(np.maximum(left_s, 0.0), ramp_s)
        way += t * (speed + t * (grows / 2.0 + t * jerk / 6.0))
        speed, grows = speed + t * (grows + t * jerk / 2.0), grows + t * jerk
        left_s = left_s - ramp_s
    return against * way, against * speed


def passing_speed(arriving: np.ndarray, leaving: np.ndarray) -> np.ndarray:
    """(6,) speed between two pieces with these mean speeds (6,) [rad/s]: a joint that turns back, or is done, rests.

    The smaller of both, so that neither piece overshoots the point where they meet.
    """
    return np.where(arriving * leaving > 0.0, np.sign(arriving) * np.minimum(np.abs(arriving), np.abs(leaving)), 0.0)


def inside_limits(q: np.ndarray) -> np.ndarray:
    """(6,) the joints, none beyond its limit."""
    return np.minimum(np.maximum(q, JOINT_MIN), JOINT_MAX)
