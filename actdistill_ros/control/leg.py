"""One leg of a way through joint space: planned to pass its end without stopping, within the limits of the TCP too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.control import envelope
from actdistill_ros.control.kinematics import jacobians
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.motion import JointState, Planner, Segment, passing_speed
from actdistill_ros.control.settings import DriverSettings

SAMPLES = (8, 40)
"""Fewest and most points at which the motion of the TCP is looked at."""
ROUNDS = 4
"""How often a leg is stretched before it is taken as it is: from a start in motion the stretching is not exact."""


@dataclass(frozen=True)
class Leg:
    """To the joints `q` (6,) [rad] in `wanted_s`."""

    q: np.ndarray
    wanted_s: float


def plan(planner: Planner, start: JointState, leg: Leg, after: Leg | None, settings: DriverSettings) -> Segment:
    """The motion along `leg`; it rests at the end unless another one follows. Takes longer where a limit says so.

    Raises MotionError.
    """
    speed, wanted_s = _end_speed(planner, start, leg, after, settings), leg.wanted_s
    for _ in range(ROUNDS):
        segment = planner.reach(start, leg.q, speed, wanted_s)
        excess = overrun(segment, settings)
        if excess <= 1.0 and segment.stays_within(JOINT_MIN - 1e-6, JOINT_MAX + 1e-6):
            return segment
        speed, wanted_s = speed / max(excess, 1.25), segment.duration_s * excess
    return planner.reach(start, leg.q, np.zeros_like(speed), wanted_s)


def _end_speed(
    planner: Planner, start: JointState, leg: Leg, after: Leg | None, settings: DriverSettings
) -> np.ndarray:
    """(6,) [rad/s] at the end of the leg; from there the arm must still be able to stop inside limits and workspace."""
    if after is None:
        return np.zeros_like(leg.q)
    speed = passing_speed((leg.q - start.q) / leg.wanted_s, (after.q - leg.q) / after.wanted_s)
    speed = np.clip(speed, -planner.limits.speed, planner.limits.speed)
    stops_at = leg.q + np.sign(speed) * planner.stop_way(speed)
    if envelope.is_outside(stops_at, leg.q, settings):
        return np.zeros_like(leg.q)
    return np.where((stops_at >= JOINT_MIN) & (stops_at <= JOINT_MAX), speed, 0.0)


def overrun(segment: Segment, settings: DriverSettings) -> float:
    """By which factor the segment must be stretched in time for the limits of the TCP; at most 1 if they hold."""
    count = int(np.clip(round(segment.duration_s / settings.tick_s), *SAMPLES))
    step_s = segment.duration_s / count
    if step_s <= 0.0:
        return 0.0
    states = [segment.at(i * step_s) for i in range(count + 1)]
    q, v = np.array([state.q for state in states]), np.array([state.v for state in states])
    twists = np.einsum("tij,tj->ti", jacobians(q), v)  # (T, 6)
    moves, turns = twists[:, :3], twists[:, 3:]
    accelerations = np.diff(moves, axis=0) / step_s
    return max(
        _largest(moves) / settings.tcp_speed_limit_m_s,
        _largest(turns) / settings.tcp_turn_limit_rad_s,
        (_largest(accelerations) / settings.tcp_acceleration_limit_m_s2) ** (1 / 2),
        (_largest(np.diff(accelerations, axis=0) / step_s) / settings.tcp_jerk_limit_m_s3) ** (1 / 3),
    )


def why_longer(segment: Segment, share: float, settings: DriverSettings) -> str:
    """Which limit makes a leg take longer than wanted; share: of its speed that singularities leave."""
    if share < 1.0:
        return f"slower towards a singularity, {100 * share:.0f} % of its speed"
    limit = settings.joint_speed_limit
    peak = np.abs([segment.at(segment.duration_s * i / 8).v for i in range(9)]).max(axis=0) / limit
    joint = int(np.argmax(peak))
    if peak[joint] > 0.99:
        return f"{JOINT_NAMES[joint]} at its speed limit of {limit[joint]:.1f} rad/s"
    return "at the limits of acceleration and of the TCP"


def _largest(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.max(np.einsum("ij,ij->i", vectors, vectors))))
