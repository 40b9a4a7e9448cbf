"""Setting a scene: which task, where the objects stand, how the world looks; everything from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.sim import layout, looks
from actdistill_ros.sim.language import phrase
from actdistill_ros.sim.tasks import Goal, Task
from actdistill_ros.sim.world import World

TASKS = ("lift", "bowl", "push", "stack")
SUITES = ("tabletop", "tabletop-hard")

_STEPS_PER_GOAL = 120
_GAP_M = 0.068  # between block centres: the diagonals of two blocks and a little air
_BOWL_GAP_M = 0.105
_JAW_Y_M, _JAW_X_M = 0.100, 0.048  # what the open jaw sweeps around a block that is to be gripped
_PUSH_PATH_M = 0.115
_BOWL_EXTRA_M = 0.042  # by how much the bowl is wider than a block


class StagingError(ValueError):
    """An unknown suite or task; the text lists the known ones."""


@dataclass(frozen=True)
class Nudge:
    """Somebody moves the block while the arm works: at `step`, by `shift_m` (2,)."""

    step: int
    block: str
    shift_m: tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """A scene that is set: the task and each block's place at the start, (3,) [m]."""

    task: Task
    starts: dict[str, np.ndarray]
    nudge: Nudge | None


def check(suite: str, task: str | None) -> None:
    """Raises StagingError."""
    if suite not in SUITES:
        raise StagingError(f"unknown suite {suite!r}; known suites: {', '.join(SUITES)}")
    if task is not None and task not in TASKS:
        raise StagingError(f"unknown task {task!r}; tasks of suite {suite}: {', '.join(TASKS)}")


def set_stage(world: World, suite: str, task: str, seed: int, held_out: bool = False) -> Stage:
    """Place everything for `task` (the last goal's kind) as `seed` says; the arm is not touched.

    Raises StagingError for an unknown suite or task.
    """
    check(suite, task)
    hard = suite == "tabletop-hard"
    rng = np.random.default_rng([seed, TASKS.index(task), SUITES.index(suite)])
    goals = _goals(task, rng, two_steps=hard and rng.random() < 0.5)
    places = _places(goals, rng)
    for name in layout.BLOCKS:
        world.place_block(name, *places[name], rng.uniform(-0.3, 0.3))
    world.place_fixed("bowl", *places["bowl"], layout.TABLE_Z_M)
    _place_distractors(world, places, rng, count=int(rng.integers(1, 4)) if hard else 0)
    looks.randomise(world.model, rng, strong=hard)
    world.settle()
    nudge = None
    if hard and rng.random() < 0.3:
        shift = rng.uniform(0.025, 0.04) * np.array([rng.choice([-1.0, 1.0]), rng.uniform(-0.5, 0.5)])
        nudge = Nudge(int(rng.integers(4, 14)), goals[0].block, (float(shift[0]), float(shift[1])))
    instruction = phrase(goals, rng, held_out)
    starts = {name: world.block(name) for name in layout.BLOCKS}
    return Stage(Task(task, goals, instruction, _STEPS_PER_GOAL * len(goals)), starts, nudge)


def _goals(task: str, rng: np.random.Generator, two_steps: bool) -> tuple[Goal, ...]:
    block, other, third = rng.choice(layout.BLOCKS, 3, replace=False)
    last = {
        "lift": Goal("lift", block),
        "bowl": Goal("bowl", block),
        "push": Goal("push", block, side=int(rng.choice([-1, 1]))),
        "stack": Goal("stack", block, other),
    }[task]
    # The first of two goals must be one whose completion can be seen, since the policy has no memory.
    first = Goal("stack", third, other) if task == "bowl" else Goal("bowl", third)
    return (first, last) if two_steps else (last,)


def _places(goals: tuple[Goal, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    for _ in range(5000):
        names = (*layout.BLOCKS, "bowl")
        places = {n: np.array([rng.uniform(*layout.PLACE_X_M), rng.uniform(*layout.PLACE_Y_M)]) for n in names}
        if _clear(places) and all(_room_for(goal, places) for goal in goals):
            return places
    raise StagingError("no free arrangement of the objects was found; the table is too small for them")


def _clear(places: dict[str, np.ndarray]) -> bool:
    names = list(places)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = _BOWL_GAP_M if "bowl" in (a, b) else _GAP_M
            if np.hypot(*(places[a] - places[b])) < gap:
                return False
    return True


def _room_for(goal: Goal, places: dict[str, np.ndarray]) -> bool:
    """Room for the jaw around what is gripped (and stacked on), or along the way that is pushed."""
    if goal.kind == "push":
        return _way_free(goal, places)
    jaws = [(goal.block, {goal.block})]
    if goal.kind == "stack":
        jaws.append((goal.other, {goal.block, goal.other}))
    return all(_jaw_free(places[at], {n: p for n, p in places.items() if n not in own}) for at, own in jaws)


def _way_free(goal: Goal, places: dict[str, np.ndarray]) -> bool:
    at = places[goal.block]
    for name, place in places.items():
        along, across = goal.side * (place[1] - at[1]), abs(place[0] - at[0])
        extra = _BOWL_EXTRA_M if name == "bowl" else 0.0
        if name != goal.block and -0.095 - extra < along < _PUSH_PATH_M + extra and across < 0.065 + extra:
            return False
    return goal.side * at[1] < 0.10


def _jaw_free(at: np.ndarray, others: dict[str, np.ndarray]) -> bool:
    for name, place in others.items():
        extra = _BOWL_EXTRA_M if name == "bowl" else 0.0
        if abs(place[1] - at[1]) < _JAW_Y_M + extra and abs(place[0] - at[0]) < _JAW_X_M + extra:
            return False
    return True


def _place_distractors(world: World, places: dict[str, np.ndarray], rng: np.random.Generator, count: int) -> None:
    for i, name in enumerate(layout.DISTRACTORS):
        world.place_fixed(name, -1.0, float(i), -1.0)
    taken = list(places.values())
    for name in rng.permutation(layout.DISTRACTORS)[:count]:
        for _ in range(60):
            # Around the working area, where the jaw and a pushed block do not go.
            at = np.array([rng.uniform(0.16, 0.48), rng.choice([-1, 1]) * rng.uniform(0.10, 0.26)])
            if min(np.hypot(*(at - p)) for p in taken) > 0.11:
                world.place_fixed(name, *at, layout.TABLE_Z_M + 0.022, rng.uniform(-1.5, 1.5))
                taken.append(at)
                break
