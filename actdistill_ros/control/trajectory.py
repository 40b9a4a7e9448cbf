"""A way through joint space that a planning tool asks for, judged as a whole before the arm moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.control import envelope
from actdistill_ros.control.leg import Leg
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.settings import DriverSettings

CHECK_RAD = 0.05
"""The way is looked at whenever a joint has turned by this much."""
CHECKS_MAX = 1000


@dataclass(frozen=True)
class Trajectory:
    """positions_rad: (N, 6); times_s: (N,) from the start; stamp_s: when to start, 0 for now."""

    positions_rad: np.ndarray
    times_s: np.ndarray
    stamp_s: float = 0.0


@dataclass(frozen=True)
class JudgedWay:
    """Legs that were found good from the joints `start_q` (6,) [rad]."""

    start_q: np.ndarray
    legs: tuple[Leg, ...]


def judge(
    trajectory: Trajectory, start_q: np.ndarray, now_s: float, settings: DriverSettings
) -> tuple[JudgedWay | None, str]:
    """The way from start_q (6,) [rad], or why it must not be taken. Slow enough legs are the driver's to plan."""
    why = _form_refusal(trajectory, now_s, settings) or _limit_refusal(trajectory.positions_rad)
    why = why or _way_refusal(np.vstack([start_q, trajectory.positions_rad]), settings)
    if why:
        return None, f"trajectory refused: {why}"
    return JudgedWay(start_q.copy(), _legs(trajectory, settings)), ""


def _legs(trajectory: Trajectory, settings: DriverSettings) -> tuple[Leg, ...]:
    """Points closer in time than two ticks are passed over: planning each of them would make the ticks late."""
    legs, since_s = [], 0.0
    for i, (q, time_s) in enumerate(zip(trajectory.positions_rad, trajectory.times_s)):
        last = i == len(trajectory.times_s) - 1
        if last or time_s - since_s >= 2.0 * settings.tick_s - 1e-9:
            # A first point at time 0 is where the tool believes the arm to be.
            legs.append(Leg(q, max(float(time_s) - since_s, settings.tick_s)))
            since_s = float(time_s)
    return tuple(legs)


def _form_refusal(trajectory: Trajectory, now_s: float, settings: DriverSettings) -> str:
    shape, times = np.shape(trajectory.positions_rad), trajectory.times_s
    if len(shape) != 2 or shape[1] != 6 or not 1 <= shape[0] <= settings.trajectory_points_max:
        return f"positions have shape {shape}, expected (1 … {settings.trajectory_points_max}, 6)"
    if not (np.isfinite(trajectory.positions_rad).all() and np.isfinite(times).all()):
        return "positions or times are not finite"
    if times[0] < 0.0 or (np.diff(times) <= 0.0).any() or times[-1] > 3600.0:
        return "time_from_start is expected to grow from point to point, from 0 or more up to an hour"
    age_s = now_s - trajectory.stamp_s
    if trajectory.stamp_s != 0.0 and not -settings.clock_skew_s <= age_s <= settings.max_chunk_age_s:
        return f"stamp is {age_s:.2f} s old, expected 0 … {settings.max_chunk_age_s} s, or stamp 0 for a start now"
    return ""


def _limit_refusal(positions: np.ndarray) -> str:
    outside = np.maximum(JOINT_MIN - positions, positions - JOINT_MAX)
    point, joint = np.unravel_index(int(np.argmax(outside)), outside.shape)
    if outside[point, joint] <= 0.0:
        return ""
    return (
        f"{JOINT_NAMES[joint]} of point {point + 1} is {positions[point, joint]:.3f} rad, expected "
        f"{JOINT_MIN[joint]} … {JOINT_MAX[joint]} rad"
    )


def _way_refusal(points: np.ndarray, settings: DriverSettings) -> str:
    """points (N+1, 6): each straight piece is walked in small steps; none may be further outside than the start."""
    counts = np.ceil(np.max(np.abs(np.diff(points, axis=0)), axis=1) / CHECK_RAD).astype(int)
    if counts.sum() > CHECKS_MAX:
        return f"the way is {counts.sum() * CHECK_RAD:.0f} rad long, expected at most {CHECKS_MAX * CHECK_RAD:.0f} rad"
    # Judged against the start, not against the step before: small steps out must not add up.
    for number, (start, goal, count) in enumerate(zip(points[:-1], points[1:], counts), 1):
        for i in range(1, count + 1):
            q = start + (goal - start) * (i / count)
            why = _border_refusal(q, points[0], settings) or envelope.closeness_refusal(q, points[0], settings)
            if why:
                return f"before point {number}: {why}"
    return ""


def _border_refusal(q: np.ndarray, start_q: np.ndarray, settings: DriverSettings) -> str:
    chain = settings.arm.chain
    _, cut = envelope.clamp_to_workspace(chain.forward(q), chain.forward(start_q), settings)
    return f"the TCP would leave the workspace: {cut}" if cut else ""
