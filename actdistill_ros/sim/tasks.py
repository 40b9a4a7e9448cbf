"""What can be asked of the arm: goals, and when a goal is reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.sim import layout
from actdistill_ros.sim.world import World

LIFTED_M = 0.05
PUSHED_M = 0.05
PUSH_SIDE_M = 0.04
STACK_OFFSET_M = 0.022
OPEN = 0.82  # a gripper opened this far holds no block
HELD = 0.76  # a block held by its sides keeps it at 0.45, by its diagonal at 0.7
_GRIPPER_STILL = 0.6  # [openings/s]
_LEVEL_M = 0.010
_REST_Z_M = layout.TABLE_Z_M + layout.BLOCK_SIDE_M / 2


@dataclass(frozen=True)
class Goal:
    """kind: lift, bowl, push or stack; other: the block underneath (stack); side: +1 left, −1 right (push)."""

    kind: str
    block: str
    other: str = ""
    side: int = 0


@dataclass(frozen=True)
class Task:
    """An instruction and the goals it asks for, in order."""

    name: str
    goals: tuple[Goal, ...]
    instruction: str
    max_steps: int


def held(world: World, block: str) -> bool:
    """The block sits between closed fingers."""
    offset = world.block(block) - world.tcp.position_m
    grips = world.gripper < HELD and abs(world.gripper_speed) < _GRIPPER_STILL
    return grips and float(np.hypot(offset[0], offset[1])) < 0.026 and abs(offset[2]) < 0.028


def in_bowl(world: World, block: str) -> bool:
    position, bowl = world.block(block), world.bowl
    inside = float(np.hypot(*(position - bowl)[:2])) < layout.BOWL_RADIUS_M
    return inside and position[2] < bowl[2] + 0.055 and not held(world, block)


def stacked(world: World, block: str, other: str) -> bool:
    offset = world.block(block) - world.block(other)
    level = abs(offset[2] - layout.BLOCK_SIDE_M) < _LEVEL_M
    return level and float(np.hypot(offset[0], offset[1])) < STACK_OFFSET_M and not held(world, block)


def stays_reached(world: World, goal: Goal) -> bool:
    """Whether an earlier goal (bowl or stack) still holds, whatever the gripper does by now."""
    return in_bowl(world, goal.block) if goal.kind == "bowl" else stacked(world, goal.block, goal.other)


def achieved(world: World, task: Task, starts: dict[str, np.ndarray]) -> bool:
    """The verdict: the last goal is reached and all earlier ones still hold."""
    earlier = all(stays_reached(world, goal) for goal in task.goals[:-1])
    return earlier and bool(reached(world, task.goals[-1], starts[task.goals[-1].block]))


def reached(world: World, goal: Goal, start: np.ndarray) -> bool:
    """Whether the goal holds now; `start` is the block's place when the task began, (3,) [m]."""
    position = world.block(goal.block)
    if goal.kind == "lift":
        return position[2] > _REST_Z_M + LIFTED_M and held(world, goal.block)
    if goal.kind == "bowl":
        return in_bowl(world, goal.block) and world.gripper > OPEN
    if goal.kind == "stack":
        still = world.block_speed(goal.block) < 0.02
        return stacked(world, goal.block, goal.other) and world.gripper > OPEN and still
    moved = position - start
    on_table = abs(position[2] - _REST_Z_M) < _LEVEL_M
    return on_table and goal.side * moved[1] > PUSHED_M and abs(moved[0]) < PUSH_SIDE_M
