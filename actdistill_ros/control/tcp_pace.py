"""How fast the TCP may be, in a motion and in the stop that could follow at each moment of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.control.kinematics import Chain
from actdistill_ros.control.motion import MotionLimits, Segment, stops
from actdistill_ros.control.settings import DriverSettings

PLANNED = 0.99
"""Share of the TCP's limits that is planned with: between two moments that are looked at it may be a little faster."""
SAMPLES = (8, 40)
"""Fewest and most moments of a motion that are looked at."""
SAMPLE_RAD = 0.05
"""And so far may a joint turn from one of them to the next on a long way."""
POINTS = 8
"""At so many points of a stop the TCP is looked at: a stop takes 0.06 s at most, its fastest moment lasts for some
10 ms."""


@dataclass(frozen=True)
class Samples:
    """q [rad], v [rad/s], a [rad/s²]: (T, 6), a motion at even times, `step_s` apart."""

    q: np.ndarray
    v: np.ndarray
    a: np.ndarray
    step_s: float


def sample(segment: Segment, settings: DriverSettings) -> Samples:
    """About one sample per tick, the start and the end among them; fewer of a slow motion, as close as a long way
    needs."""
    turns = np.max(np.abs(segment.goal.q - segment.at(0.0).q)) / SAMPLE_RAD
    count = max(int(np.clip(round(segment.duration_s / settings.tick_s), *SAMPLES)), int(np.ceil(turns)))
    step_s = segment.duration_s / count
    states = [segment.at(i * step_s) for i in range(count + 1)]
    q, v, a = (np.array([getattr(state, name) for state in states]) for name in ("q", "v", "a"))
    return Samples(q, v, a, step_s)


def overrun(samples: Samples, braking: MotionLimits, settings: DriverSettings) -> float:
    """By which factor the motion must be stretched in time for the limits of the TCP; at most 1 if they hold.

    braking: those of the stop that could follow. The start is not looked at: it was with the motion before, and no plan
    changes it any more.
    """
    if samples.step_s <= 0.0:
        return 0.0
    moves, _ = _twists(settings.arm.chain, samples.q, samples.v)
    accelerations = np.diff(moves, axis=0) / samples.step_s
    jerks = np.diff(accelerations, axis=0) / samples.step_s
    return max(
        (_largest(accelerations) / settings.tcp_acceleration_limit_m_s2) ** (1 / 2),
        (_largest(jerks) / settings.tcp_jerk_limit_m_s3) ** (1 / 3),
        speed_overrun(samples.q[1:], samples.v[1:], samples.a[1:], braking, settings),
    )


def speed_overrun(
    q: np.ndarray, v: np.ndarray, a: np.ndarray, braking: MotionLimits, settings: DriverSettings
) -> float:
    """How fast the TCP is at these moments and in the stops from them, as share of what is planned with.

    q [rad], v [rad/s], a [rad/s²]: (T, 6). Joints that hold each other's motion up do so no longer once one of them
    rests, so the TCP may get faster in a stop than it was before.
    """
    ways, speeds = stops(v, a, braking, POINTS)  # (K, T, 6)
    every_q, every_v = np.concatenate([q[None], q + ways]), np.concatenate([v[None], speeds])  # (K + 1, T, 6)
    moves, turns = _twists(settings.arm.chain, every_q.reshape(-1, 6), every_v.reshape(-1, 6))
    shares = _largest(moves) / settings.tcp_speed_limit_m_s, _largest(turns) / settings.tcp_turn_limit_rad_s
    return max(shares) / PLANNED


def _twists(chain: Chain, q: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed [m/s] and turning speed [rad/s] of the TCP, (T, 3) each, at joints q [rad] and speeds v [rad/s], (T, 6)."""
    twists = np.einsum("tij,tj->ti", chain.jacobians(q), v)  # (T, 6)
    return twists[:, :3], twists[:, 3:]


def _largest(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.max(np.einsum("ij,ij->i", vectors, vectors))))
