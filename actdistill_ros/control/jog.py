"""Jogging: a wanted twist of the TCP becomes joint motion that can stop inside the envelope at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import envelope
from actdistill_ros.control.kinematics import ORIENTATION_WEIGHT_M
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.motion import JointState, MotionLimits, Planner
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.control.room import Room
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.singularity import dexterity, speed_share
from actdistill_ros.control.tcp_pace import speed_overrun

PULL_PER_S = 8.0
"""How fast the joints are drawn to the commanded pose: what the linearisation of a tick loses must not add up."""
LOOK_AHEAD_S = 0.05
LEASH_M, LEASH_RAD = 0.005, 0.03
"""A commanded pose further ahead of the joints than this is taken back: it must not wind up behind a border."""


@dataclass(frozen=True)
class JogStep:
    """state: the joints after the tick; tcp: the commanded pose then; why: what slows or stops the jog, in words."""

    state: JointState
    tcp: ArmPose
    why: str


class Jogger:
    """Follows a twist from tick to tick. The twist ramps with limited acceleration and jerk from the TCP's own."""

    def __init__(self, settings: DriverSettings, planner: Planner) -> None:
        self._settings, self._planner, self._chain = settings, planner, settings.arm.chain
        s = settings
        self._ramp = Planner(
            MotionLimits(
                np.repeat([s.jog_speed_m_s, s.jog_turn_rad_s], 3),
                np.repeat([s.jog_acceleration_m_s2, s.jog_turn_acceleration_rad_s2], 3),
                np.repeat([s.jog_jerk_m_s3, s.jog_turn_jerk_rad_s3], 3),
            )
        )
        self._twist = JointState.at_rest(np.zeros(6))

    def start(self, state: JointState) -> None:
        """Begin from the motion that the arm has."""
        self._twist = JointState(np.zeros(6), self._chain.jacobian(state.q) @ state.v, np.zeros(6))

    def step(self, state: JointState, tcp: ArmPose, wanted: np.ndarray, passed_s: float, room: Room) -> JogStep:
        """One tick of `passed_s` towards the twist `wanted` (6,) in `base_link` [m/s, rad/s], if the stop that could
        follow keeps inside the room. Raises MotionError."""
        if passed_s <= 0.0:
            return JogStep(state, tcp, "")
        self._twist = self._ramp.run_at(self._twist, self._at_most_allowed(wanted, tcp)).at(passed_s)
        twist = self._twist.v
        speed, why = self._joint_speed(state.q, tcp, twist)
        next_state = self._planner.run_at(state, speed).at(passed_s)
        if blocked := self._refusal(next_state, room):
            next_state = self._planner.stop(state).at(passed_s)
            self._twist = JointState.at_rest(np.zeros(6))
            return JogStep(next_state, self._chain.forward(next_state.q), f"jog stopped: {blocked}")
        ahead, _ = envelope.clamp_to_workspace(
            integrate(tcp, twist[:3] * passed_s, twist[3:] * passed_s), tcp, self._settings
        )
        return JogStep(next_state, self._on_leash(ahead, next_state.q), why)

    def _refusal(self, state: JointState, room: Room) -> str:
        """Why the arm must not be in this motion after the tick; empty if it may."""
        moment = (state.q[None], state.v[None], state.a[None])  # (1, 6) each
        if speed_overrun(*moment, room.limits, self._settings) > 1.0:
            return "the TCP would be faster than its limits, now or in a stop"
        return room.refusal(*moment)

    def _at_most_allowed(self, wanted: np.ndarray, tcp: ArmPose) -> np.ndarray:
        """(6,) the twist at jogging speed, slower towards a border of the workspace the closer that is."""
        settings = self._settings
        twist = np.clip(wanted, -1e3, 1e3)  # squares stay finite
        for part, limit in ((slice(0, 3), settings.jog_speed_m_s), (slice(3, 6), settings.jog_turn_rad_s)):
            twist[part] *= min(1.0, limit / max(float(np.linalg.norm(twist[part])), 1e-9))
        down = np.maximum(tcp.position_m - settings.workspace_min_m, 0.0) / settings.border_slowdown_s
        up = np.maximum(settings.workspace_max_m - tcp.position_m, 0.0) / settings.border_slowdown_s
        twist[:3] = np.minimum(np.maximum(twist[:3], -down), up)
        return twist

    def _joint_speed(self, q: np.ndarray, tcp: ArmPose, twist: np.ndarray) -> tuple[np.ndarray, str]:
        """(6,) [rad/s] for the twist and the pull to the commanded pose, and what makes it slower."""
        settings = self._settings
        error = np.concatenate(difference(tcp, self._chain.forward(q)))
        here = dexterity(self._chain, q)
        speed = _damped(self._chain.jacobian(q), twist + PULL_PER_S * error, here, settings.singularity_slow_m)
        share, why = speed_share(here, dexterity(self._chain, q + speed * LOOK_AHEAD_S), settings), ""
        if share < 1.0:
            why = "jog slowed: close to a singularity; move away from the stretched or folded pose"
        room = np.where(speed > 0.0, JOINT_MAX - q, q - JOINT_MIN)
        allowed = np.minimum(self._planner.limits.speed, np.maximum(room, 0.0) / settings.border_slowdown_s)
        ratio = np.abs(speed) * share / np.maximum(allowed, 1e-9)
        joint = int(np.argmax(ratio))
        if ratio[joint] > 1.0:
            if allowed[joint] < self._planner.limits.speed[joint]:
                why = f"jog slowed: {JOINT_NAMES[joint]} is close to its limit; jog the other way or turn the wrist"
            share /= ratio[joint]
        return speed * share, why

    def _on_leash(self, tcp: ArmPose, q: np.ndarray) -> ArmPose:
        at = self._chain.forward(q)
        move, turn = difference(tcp, at)
        too_far = np.linalg.norm(move) > LEASH_M or np.linalg.norm(turn) > LEASH_RAD
        return at if too_far else tcp


def _damped(matrix: np.ndarray, twist: np.ndarray, dexterity_m: float, slow_m: float) -> np.ndarray:
    """(6,) joint speeds nearest to the twist, bounded where the Jacobian has no inverse."""
    weights = np.repeat([1.0, ORIENTATION_WEIGHT_M], 3)
    matrix, twist = matrix * weights[:, None], twist * weights
    near = max(0.0, 1.0 - (dexterity_m / slow_m) ** 2)
    damping = 1e-8 + near * (0.5 * slow_m) ** 2
    return matrix.T @ np.linalg.solve(matrix @ matrix.T + damping * np.eye(6), twist)
