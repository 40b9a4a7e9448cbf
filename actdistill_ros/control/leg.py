"""One leg of a way through joint space: planned to pass its end without stopping, within the limits of the TCP too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from actdistill_ros.control import envelope
from actdistill_ros.control.kinematics import Chain
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.motion import JointState, MotionError, Planner, Segment, passing_speed
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.control.room import Room
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.tcp_pace import overrun, sample

ROUNDS = 5
"""How often a leg is stretched before the arm comes to rest first: from a start in motion the stretching is not
exact."""


CAUTION = ((1, 1.0), (1, 2.0), (1, 4.0), (2, 2.0), (2, 4.0), (4, 4.0), (4, 8.0))
"""Ways to go from rest: in so many parts, so many times slower. Parts keep the way close to the straight line, slowness
the stops close to the way."""


@dataclass(frozen=True)
class Leg:
    """To the joints `q` (6,) [rad] in `wanted_s`. straight: along a line of the TCP rather than of the joints."""

    q: np.ndarray
    wanted_s: float
    straight: bool = False


@dataclass(frozen=True)
class Plan:
    """Pieces of motion, each from where the one before ends; why: what made more than one of them, in words."""

    pieces: tuple[Segment, ...]
    why: str = ""

    @property
    def duration_s(self) -> float:
        return sum(piece.duration_s for piece in self.pieces)


def plan(planner: Planner, start: JointState, leg: Leg, after: Leg | None, room: Room, braking: Planner) -> Plan:
    """The motion along `leg`; it rests at the end unless another one follows. Takes longer where a limit says so.

    Where the arm could leave the room on the way, or in a stop by `braking` from it, it goes slower, in the end from
    rest and in parts. Raises MotionError if that does not help either: then the stop from `start` is still inside.
    """
    segment, why = _within_limits(planner, start, leg, _end_speed(planner, start, leg, after, room.settings), room)
    if not why:
        return Plan((segment,))
    if after is not None:
        segment, still_why = _within_limits(planner, start, leg, np.zeros_like(leg.q), room)
        if not still_why:
            return Plan((segment,), why)
    stop = () if start.resting else (braking.stop(start),)
    start = stop[0].goal if stop else start
    bulging = 0  # in so many parts the way itself leaves the room, however slow
    for parts, stretch in CAUTION:
        if parts == bulging or (parts > 1 and not leg.straight):
            continue
        pieces, bulges = _in_parts(planner, start, replace(leg, wanted_s=leg.wanted_s * stretch), parts, room)
        if pieces:
            return Plan((*stop, *pieces), why)
        bulging = parts if bulges else bulging
    raise MotionError(f"no way there keeps inside: {why}")


def _in_parts(
    planner: Planner, start: JointState, leg: Leg, parts: int, room: Room
) -> tuple[tuple[Segment, ...], bool]:
    """From rest to rest over places of the straight line between; nothing if that leaves the room, and whether the way
    itself does, not only a stop from it."""
    pieces: tuple[Segment, ...] = ()
    for q in _places(room.settings.arm.chain, start.q, leg.q, parts):
        part = Leg(q, leg.wanted_s / parts)
        segment, why = _within_limits(planner, start, part, np.zeros_like(q), room)
        if why:
            samples = sample(segment, room.settings)
            still = np.zeros_like(samples.v)
            return (), bool(room.refusal(samples.q, still, still))
        pieces, start = (*pieces, segment), segment.goal
    return pieces, False


def _places(chain: Chain, start_q: np.ndarray, goal_q: np.ndarray, parts: int) -> list[np.ndarray]:
    """Joints (6,) [rad] on the straight line of the TCP, the goal's last."""
    places, start = [], chain.forward(start_q)
    way = difference(chain.forward(goal_q), start)
    for i in range(1, parts):
        between = integrate(start, way[0] * (i / parts), way[1] * (i / parts))
        places.append(chain.solve(between, start_q + (goal_q - start_q) * (i / parts)).q)
    return [*places, goal_q]


def _within_limits(planner: Planner, start: JointState, leg: Leg, speed: np.ndarray, room: Room) -> tuple[Segment, str]:
    """The motion to the end of the leg and its speed (6,) there, stretched in time as joints and TCP need; and why the
    arm must not move like that, empty if it may."""
    wanted_s = leg.wanted_s
    for left in reversed(range(ROUNDS)):
        segment = planner.reach(start, leg.q, speed, wanted_s)
        samples = sample(segment, room.settings)
        excess = overrun(samples, room.limits, room.settings)
        if excess <= 1.0 and segment.stays_within(JOINT_MIN - 1e-6, JOINT_MAX + 1e-6):
            break
        speed = speed / max(excess, 1.25) if left > 1 else np.zeros_like(speed)
        wanted_s = segment.duration_s * excess
    else:
        return segment, "the TCP or a joint would be beyond its limits, on the way or in a stop, from this motion"
    return segment, room.refusal(samples.q, samples.v, samples.a)


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


def why_longer(plan: Plan, share: float, settings: DriverSettings) -> str:
    """Which limit makes a leg take longer than wanted; share: of its speed that singularities leave."""
    if plan.why:
        return f"slower and in parts, for otherwise {plan.why}"
    segment = plan.pieces[0]
    if share < 1.0:
        return f"slower towards a singularity, {100 * share:.0f} % of its speed"
    limit = settings.joint_speed_limit
    peak = np.abs([segment.at(segment.duration_s * i / 8).v for i in range(9)]).max(axis=0) / limit
    joint = int(np.argmax(peak))
    if peak[joint] > 0.99:
        return f"{JOINT_NAMES[joint]} at its speed limit of {limit[joint]:.1f} rad/s"
    return "at the limits of acceleration and of the TCP"
