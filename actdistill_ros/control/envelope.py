"""What is allowed: every chunk, target pose, joint step and motor answer is judged here, in words."""

from __future__ import annotations

import numpy as np

from actdistill_ros.arm.backend import JointFeedback
from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION, Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.kinematics import Solution
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.settings import DriverSettings

WORTH_SAYING_M = 0.0005
"""Less than this cut off a target is no news."""


def chunk_refusal(chunk: Chunk, now_s: float, newest_stamp_s: float, settings: DriverSettings) -> str:
    """Why this chunk must not move the arm; empty if it may."""
    return (
        _shape_refusal(chunk, settings)
        or _stamp_refusal(chunk, now_s, newest_stamp_s, settings)
        or _action_refusal(chunk, settings)
    )


def _shape_refusal(chunk: Chunk, settings: DriverSettings) -> str:
    shape = np.shape(chunk.actions)
    if len(shape) != 2 or shape[1] != ACTION_DIM or not 1 <= shape[0] <= settings.actions_max:
        return f"actions have shape {shape}, expected (1 … {settings.actions_max}, {ACTION_DIM})"
    if not 1 <= chunk.execute <= shape[0]:
        return f"execute is {chunk.execute}, expected 1 … {shape[0]}, the number of actions"
    if not settings.period_min_s <= chunk.period_s <= settings.period_max_s:
        return f"period is {chunk.period_s} s, expected {settings.period_min_s} … {settings.period_max_s} s"
    return ""


def _stamp_refusal(chunk: Chunk, now_s: float, newest_stamp_s: float, settings: DriverSettings) -> str:
    age_s = now_s - chunk.stamp_s
    if not np.isfinite(chunk.stamp_s) or chunk.stamp_s <= 0.0:
        return f"stamp is {chunk.stamp_s:g}, expected the capture time of the observation"
    if age_s < -settings.clock_skew_s:
        return f"stamp is {-age_s:.3f} s in the future: use one clock for all machines"
    if age_s > settings.max_chunk_age_s:
        return f"stale chunk: its observation is {age_s:.2f} s old, expected at most {settings.max_chunk_age_s} s"
    if chunk.stamp_s < newest_stamp_s:
        return (
            f"stale chunk: its observation is {newest_stamp_s - chunk.stamp_s:.3f} s older than that of the one before"
        )
    return ""


def _action_refusal(chunk: Chunk, settings: DriverSettings) -> str:
    finite = np.isfinite(chunk.actions).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        return f"action {i + 1} is not finite: {np.array2string(chunk.actions[i], precision=4)}"
    for name, part, unit, limit in (
        ("translation", TRANSLATION, "m", settings.translation_limit_m),
        ("rotation", ROTATION, "rad", settings.rotation_limit_rad),
    ):
        size = np.linalg.norm(np.clip(chunk.actions[:, part], -1e6, 1e6), axis=1)  # squares stay finite
        i = int(np.argmax(size))
        if size[i] > limit:
            return (
                f"far jump: {name} of action {i + 1} is {size[i]:.3f} {unit}, "
                f"expected at most {limit} {unit} per action"
            )
    gripper = chunk.actions[:, GRIPPER]
    outside = np.abs(gripper - 0.5) - 0.5
    i = int(np.argmax(outside))
    if outside[i] > settings.gripper_tolerance:
        return (
            f"gripper of action {i + 1} is {gripper[i]:.2f}, expected 0 (closed) … 1 (open): convert the policy's "
            "convention"
        )
    return ""


def is_opening(opening: float, settings: DriverSettings) -> bool:
    """Whether this is an opening of the gripper in this package's convention, 0 closed … 1 open."""
    return bool(np.isfinite(opening)) and abs(opening - 0.5) - 0.5 <= settings.gripper_tolerance


def clamp_to_workspace(target: ArmPose, start: ArmPose, settings: DriverSettings) -> tuple[ArmPose, str]:
    """The target inside the workspace, and what was cut off in words (empty if nothing).

    A start outside (the arm was switched on there) may move inwards but no further out, and is never pulled in.
    """
    low = np.minimum(settings.workspace_min_m, start.position_m)
    high = np.maximum(settings.workspace_max_m, start.position_m)
    inside = np.minimum(np.maximum(target.position_m, low), high)
    cut = np.abs(inside - target.position_m)
    axis = int(np.argmax(cut))
    if cut[axis] < 1e-9:
        return target, ""
    if cut[axis] < WORTH_SAYING_M:
        return ArmPose(inside, target.rotation), ""
    words = f"target cut by {1000 * cut[axis]:.0f} mm along {'xyz'[axis]} at the workspace limit {inside[axis]:.3f} m"
    return ArmPose(inside, target.rotation), words


def solution_refusal(solution: Solution, target: ArmPose, start_q: np.ndarray, settings: DriverSettings) -> str:
    """Why these joints must not be commanded; empty if they may."""
    if (
        solution.position_error_m > settings.ik_position_tolerance_m
        or solution.rotation_error_rad > settings.ik_rotation_tolerance_rad
    ):
        at = ", ".join(f"{value:.3f}" for value in target.position_m)
        return (
            f"unreachable: the nearest joints miss the target at ({at}) m by {1000 * solution.position_error_m:.1f} mm "
            f"and {solution.rotation_error_rad:.3f} rad"
        )
    jump = np.abs(solution.q - start_q)
    joint = int(np.argmax(jump))
    if jump[joint] > settings.joint_jump_limit_rad:
        return (
            f"{JOINT_NAMES[joint]} would jump {jump[joint]:.2f} rad, expected at most "
            f"{settings.joint_jump_limit_rad} rad per action: near a singularity"
        )
    return ""


def closeness_refusal(q: np.ndarray, start_q: np.ndarray, settings: DriverSettings) -> str:
    """Why joints q (6,) bring the arm too close to itself or the table; empty if they do not.

    A start that is too close already (the vendor's rest pose is) may move apart, or at least no closer.
    """
    body = settings.arm.body
    near = body.clearance(q, settings.table_z_m)
    if near.distance_m >= settings.self_clearance_m:
        return ""
    if near.distance_m >= body.clearance(start_q, settings.table_z_m).distance_m - 1e-7:
        return ""
    return (
        f"it would bring {near.between[0]} and {near.between[1]} within {1000 * near.distance_m:.0f} mm, expected at "
        f"least {1000 * settings.self_clearance_m:.0f} mm"
    )


def is_outside(q: np.ndarray, start_q: np.ndarray, settings: DriverSettings) -> bool:
    """Whether the TCP at joints q (6,) is outside the workspace, and further out than at start_q."""
    chain = settings.arm.chain
    at, start = chain.forward(q).position_m, chain.forward(start_q).position_m
    low = np.minimum(settings.workspace_min_m - WORTH_SAYING_M, start)
    high = np.maximum(settings.workspace_max_m + WORTH_SAYING_M, start)
    return bool(np.any((at < low) | (at > high)))


def limit_step(start: np.ndarray, wanted: np.ndarray, seconds: float, speed_limit: np.ndarray) -> np.ndarray:
    """(6,) `wanted`, no further from `start` than each joint may go in that time and never outside the joint limits."""
    reach = speed_limit * seconds
    return np.minimum(np.maximum(wanted, np.maximum(start - reach, JOINT_MIN)), np.minimum(start + reach, JOINT_MAX))


def start_refusal(feedback: JointFeedback, settings: DriverSettings) -> str:
    """Why the arm must not be started where it is; empty if it may."""
    outside = np.maximum(JOINT_MIN - feedback.position_rad, feedback.position_rad - JOINT_MAX)
    joint = int(np.argmax(outside))
    if outside[joint] > settings.start_tolerance_rad:
        return (
            f"{JOINT_NAMES[joint]} is at {feedback.position_rad[joint]:.2f} rad, outside "
            f"{JOINT_MIN[joint]} … {JOINT_MAX[joint]} rad: move it inside by hand"
        )
    return ""


def astray(commanded: np.ndarray, measured: np.ndarray, limit_rad: float) -> str:
    """Which joint is not where it was told to be; empty if all are."""
    distance = np.abs(commanded - measured)
    joint = int(np.argmax(distance))
    if distance[joint] <= limit_rad:
        return ""
    return (
        f"{JOINT_NAMES[joint]} is {distance[joint]:.2f} rad from its command, expected at most "
        f"{limit_rad} rad: something blocks or moved the arm"
    )


def feedback_fault(feedback: JointFeedback, now_s: float, settings: DriverSettings) -> str:
    """What is wrong with the motors' answers as a whole; empty if nothing."""
    age_s = now_s - feedback.stamp_s
    if age_s > settings.feedback_timeout_s:
        return (
            f"motor feedback is {age_s:.1f} s old, "
            f"expected at most {settings.feedback_timeout_s} s: check power and bus"
        )
    # A sum is finite only if every part is; one call instead of three, since this runs every tick.
    if not np.isfinite(feedback.position_rad.sum() + feedback.velocity_rad_s.sum() + feedback.gripper):
        return "motor feedback is not finite: check the motors' wiring and firmware"
    return ""


def motor_faults(feedback: JointFeedback) -> tuple[str, ...]:
    return tuple(
        f"{motor}: {fault}; {REMEDIES.get(fault, REMEDY)}" for motor, fault in feedback.faults.items() if fault
    )


REMEDY = "switch the arm off, look the fault up in the motor's manual"
REMEDIES = {
    "no answer": "check its cable and power",
    "over-voltage": "check the supply",
    "under-voltage": "check the supply and its cable",
    "over-current": "free the joint from what blocks it",
    "overload": "free the joint from what blocks it",
    "driver too hot": "let the motor cool down",
    "coil too hot": "let the motor cool down",
    "switched off": "check its supply",
    "lost communication": "check its cable and the bus",
    "answers late": "check the adapter, and that this machine is not overloaded",
}
