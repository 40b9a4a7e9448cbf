"""The scripted expert: from the state alone to the next action, so that it can label any state a policy reaches.

Heights follow funnels instead of thresholds: the nearer the gripper is to its goal sideways, the lower it may go.
Labels then
change smoothly with the state, and a policy that sees a few millimetres less sharply still gets useful ones.
"""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.pose import rotation_vector
from actdistill_ros.sim import layout
from actdistill_ros.sim.tasks import OPEN, Goal, Task, held, stays_reached
from actdistill_ros.sim.world import World

STEP_M = 0.025  # largest translation of one action
STEP_RAD = 0.12
TURN_LIMIT_RAD = 0.4
CLOSE_XY_M = 0.009
CLOSE_Z_M = 0.010

_TABLE = layout.TABLE_Z_M
_GRASP_Z_M = _TABLE + 0.020
_HOVER_Z_M = _TABLE + 0.095
_CARRY_Z_M = _TABLE + 0.135
_BOWL_RELEASE_Z_M = _TABLE + 0.075
_BEHIND_M = 0.060  # TCP behind a block's centre before pushing
_PUSH_Z_M = _TABLE + 0.024


def next_action(world: World, task: Task, tcp_commanded: ArmPose) -> np.ndarray:
    """(7,) action for the first goal that does not hold yet."""
    for goal in task.goals[:-1]:
        if not stays_reached(world, goal):
            return _act(world, goal, tcp_commanded)
    return _act(world, task.goals[-1], tcp_commanded)


def _act(world: World, goal: Goal, tcp: ArmPose) -> np.ndarray:
    if goal.kind == "push":
        return _push(world, goal, tcp)
    if held(world, goal.block):
        return _carry(world, goal, tcp)
    if goal.kind != "lift" and stays_reached(world, goal):
        return _leave(world, tcp)
    return _fetch(world, goal, tcp)


def _fetch(world: World, goal: Goal, tcp: ArmPose) -> np.ndarray:
    """Down the funnel onto the block, jaw along its sides, then close."""
    block = world.block(goal.block)
    grasp_z = max(block[2], _GRASP_Z_M)
    offset = block[:2] - tcp.position_m[:2]
    distance = float(np.hypot(*offset))
    z = _funnel(distance, grasp_z, block[2] + _HOVER_Z_M - _GRASP_Z_M, 0.007)
    if _around_another(world, goal.block, tcp):
        return _towards(tcp, np.array([*tcp.position_m[:2], _CARRY_Z_M + 0.04]), None, 1.0)
    if world.gripper < OPEN and tcp.position_m[2] < z + 0.02 and distance > CLOSE_XY_M:
        z = tcp.position_m[2] + 0.02  # never drag something sideways: up first, opening
    close = distance < CLOSE_XY_M and abs(tcp.position_m[2] - grasp_z) < CLOSE_Z_M
    turn = float(np.clip(world.block_yaw(goal.block), -TURN_LIMIT_RAD, TURN_LIMIT_RAD))
    return _towards(tcp, np.array([*block[:2], z]), turn, 0.0 if close else 1.0)


def _around_another(world: World, block: str, tcp: ArmPose) -> bool:
    """The fingers reach down beside a block that is not wanted: moving sideways would drag or topple it."""
    for name in layout.BLOCKS:
        offset = world.block(name) - tcp.position_m
        if name != block and abs(offset[0]) < 0.035 and abs(offset[1]) < 0.055 and offset[2] > -0.038:
            return True
    return False


def _carry(world: World, goal: Goal, tcp: ArmPose) -> np.ndarray:
    """Up, across, down the funnel over the place, open."""
    if goal.kind == "lift":
        return _towards(tcp, np.array([*tcp.position_m[:2], _CARRY_Z_M]), None, 0.0)
    grip = world.block(goal.block) - world.tcp.position_m
    if goal.kind == "bowl":
        place, release_z, tolerance = world.bowl[:2], _BOWL_RELEASE_Z_M, 0.016
    else:
        under = world.block(goal.other)
        place = under[:2] - grip[:2]  # the block is what must arrive, not the gripper
        release_z, tolerance = under[2] + layout.BLOCK_SIDE_M + 0.004 - grip[2], 0.007
    offset = place - tcp.position_m[:2]
    distance = float(np.hypot(*offset))
    z = _funnel(distance, release_z, max(_CARRY_Z_M, release_z + 0.05), tolerance)
    across = place if tcp.position_m[2] > z - 0.035 else tcp.position_m[:2]  # not sideways before it is high enough
    open_now = distance < tolerance + 0.003 and tcp.position_m[2] < release_z + 0.007
    return _towards(tcp, np.array([*across, z]), None, 1.0 if open_now else 0.0)


def _leave(world: World, tcp: ArmPose) -> np.ndarray:
    up = _CARRY_Z_M if world.gripper > 0.5 else tcp.position_m[2]
    return _towards(tcp, np.array([*tcp.position_m[:2], up]), None, 1.0)


def _push(world: World, goal: Goal, tcp: ArmPose) -> np.ndarray:
    """Closed gripper beside the block, down, then sideways for as long as it is asked for."""
    block = world.block(goal.block)
    # Measured, since the commanded pose runs ahead of a hand that pushes against friction; negative on the side to
    # push from.
    behind = goal.side * (world.tcp.position_m[1] - block[1])
    across = float(block[0] - tcp.position_m[0])
    low = tcp.position_m[2] < _PUSH_Z_M + 0.014
    if low and behind < -0.022 and abs(across) < 0.016:
        target = np.array([block[0], tcp.position_m[1] + goal.side * STEP_M * 0.8, _PUSH_Z_M])
        return _towards(tcp, target, 0.0, 0.0)
    beside = np.array([block[0], block[1] - goal.side * _BEHIND_M])
    distance = float(np.hypot(*(beside - tcp.position_m[:2])))
    z = _funnel(distance, _PUSH_Z_M, _HOVER_Z_M, 0.012)
    if behind > -0.045 and tcp.position_m[2] < _HOVER_Z_M - 0.03:
        return _towards(tcp, np.array([*tcp.position_m[:2], _HOVER_Z_M]), 0.0, 0.0)  # on the wrong side: over it
    return _towards(tcp, np.array([*beside, z]), 0.0, 0.0)


def _funnel(distance: float, low: float, high: float, radius: float) -> float:
    """Height allowed at a sideways distance: `low` inside `radius`, rising 2.2 to 1 outside up to `high`."""
    return float(min(low + 2.2 * max(distance - radius, 0.0), high))


def _towards(tcp: ArmPose, target: np.ndarray, yaw: float | None, gripper: float) -> np.ndarray:
    delta = target - tcp.position_m
    norm = float(np.linalg.norm(delta))
    if norm > STEP_M:
        delta = delta * (STEP_M / norm)
    turn = np.zeros(3)
    if yaw is not None:
        turn = rotation_vector(_down(yaw) @ tcp.rotation.T)
        turn *= min(1.0, STEP_RAD / max(float(np.linalg.norm(turn)), 1e-9))
    return np.concatenate([delta, turn, [gripper]])


def _down(yaw_rad: float) -> np.ndarray:
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ layout.GRIPPER_DOWN
