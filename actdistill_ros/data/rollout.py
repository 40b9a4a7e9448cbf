"""One episode in the simulated world, labelled at every state with what the expert would do from there.

Actions come from the expert, shoved now and then, or from a policy under training (DAgger); the labels are the
expert's either
way. Without the wandering start and the shoves a policy learns to read its goal off its own motion, looks perfect in
training
loss, and fails in the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.observation import Observation
from actdistill_ros.contract.preprocess import state_vector
from actdistill_ros.data.episode import Episode
from actdistill_ros.sim import layout
from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.sim.tasks import Goal, stays_reached

CHUNK = 8
AUX_DIM = 3 * len(layout.BLOCKS) + 2 + 3 + 3
EXTRAS = {"chunk": (CHUNK, 7), "aux": (AUX_DIM,)}

Policy = Callable[[Observation], np.ndarray]
"""From an observation to actions (K, 7)."""


@dataclass(frozen=True)
class Disturbance:
    """How an episode is kept from being too tidy; probabilities are per step."""

    wander_steps: int = 6
    shove: float = 0.05
    shove_m: float = 0.014
    pause: float = 0.05
    pause_s: float = 0.15


def aux_targets(env: TabletopEnv) -> np.ndarray:
    """(20,) float32: block centres (4 × 3), bowl (2), the block that the first open goal is about (3) and where that
    block is
    to go (3), all in `base_link` [m]."""
    world, task = env.world, env.stage.task
    goal = next((g for g in task.goals[:-1] if not stays_reached(world, g)), task.goals[-1])
    places = {name: world.block(name) for name in layout.BLOCKS}
    bowl = world.bowl
    to = destination(goal, places, bowl)
    return np.concatenate([*places.values(), bowl[:2], places[goal.block], to]).astype(np.float32)


def destination(goal: Goal, places: Mapping[str, np.ndarray], bowl: np.ndarray) -> np.ndarray:
    """(3,) [m] where the goal's block is to go: up, into the bowl, on the other block, or sideways."""
    if goal.kind == "bowl":
        return np.array([bowl[0], bowl[1], layout.TABLE_Z_M])
    if goal.kind == "stack":
        return places[goal.other] + np.array([0.0, 0.0, layout.BLOCK_SIDE_M])
    if goal.kind == "lift":
        return places[goal.block] + np.array([0.0, 0.0, 0.1])
    return places[goal.block] + np.array([0.0, goal.side * 0.1, 0.0])


def record(
    env: TabletopEnv,
    suite: str,
    task: str,
    seed: int,
    policy: Policy | None = None,
    disturbance: Disturbance = Disturbance(),
) -> Episode:
    """Run one episode and return it with extras `chunk` (T, 8, 7) and `aux` (T, 20)."""
    env.reset(suite, task, seed)
    rng = np.random.default_rng([seed, 7])
    limit = int(env.stage.task.max_steps * (0.6 if policy else 1.0))
    shoves = rng.random(limit + CHUNK) < disturbance.shove
    frames, labels = _Frames(), _Labels(env, shoves, by_expert=policy is None)
    _wander(env, rng, disturbance)
    pending: list[np.ndarray] = []
    success = False
    while env.steps < limit and not success:
        if rng.random() < disturbance.pause:
            env.world.step(rng.uniform(0.02, disturbance.pause_s))
        observation = env.observe()
        action = labels.add()
        if policy is not None:
            pending = pending or list(policy(observation)[: int(rng.integers(2, 6))])
            action = pending.pop(0)
        if shoves[env.steps]:
            action = action + np.concatenate([rng.normal(0.0, disturbance.shove_m, 3), np.zeros(4)])
        frames.add(observation, aux_targets(env), action)
        success = env.step(action)
    by = "policy" if policy else "expert"
    meta = {"suite": suite, "task": task, "success": bool(success), "by": by}
    return frames.episode(env.stage.task.instruction, seed, labels.finish(), meta)


class _Frames:
    """What is seen and done, step by step."""

    def __init__(self) -> None:
        self._images: dict[str, list[np.ndarray]] = {name: [] for name in layout.CAMERAS}
        self._states, self._aux, self._actions = [], [], []

    def add(self, observation: Observation, aux: np.ndarray, action: np.ndarray) -> None:
        for name, frames in self._images.items():
            frames.append(observation.images[name])
        self._states.append(state_vector(observation.tcp_commanded, observation.gripper_measured))
        self._aux.append(aux)
        self._actions.append(action)

    def episode(self, instruction: str, seed: int, chunks: np.ndarray, meta: dict) -> Episode:
        return Episode(
            images={name: np.stack(frames) for name, frames in self._images.items()},
            state=np.stack(self._states),
            action=np.stack(self._actions).astype(np.float32),
            instruction=instruction,
            seed=seed,
            extras={"chunk": chunks, "aux": np.stack(self._aux)},
            meta=meta,
        )


class _Labels:
    """The expert's next actions from every state: its own later actions where nothing disturbs them, else tried out
    ahead."""

    def __init__(self, env: TabletopEnv, shoves: np.ndarray, by_expert: bool) -> None:
        self._env, self._shoves, self._by_expert = env, shoves, by_expert
        self._experts: list[np.ndarray] = []
        self._chunks: list[np.ndarray | None] = []

    def add(self) -> np.ndarray:
        """Label the present state; returns the expert's action."""
        step, nudge = self._env.steps, self._env.stage.nudge
        nudged = nudge is not None and step <= nudge.step <= step + CHUNK
        undisturbed = self._by_expert and not nudged and not self._shoves[step : step + CHUNK].any()
        self._chunks.append(None if undisturbed else self._env.expert_chunk(CHUNK))
        self._experts.append(self._env.expert_action() if undisturbed else self._chunks[-1][0])
        return self._experts[-1]

    def finish(self) -> np.ndarray:
        """(T, 8, 7) float32; the expert goes on past the end so that the last states have whole chunks too."""
        ahead = list(self._experts) + list(self._env.expert_chunk(CHUNK))
        whole = [np.stack(ahead[i : i + CHUNK]) if chunk is None else chunk for i, chunk in enumerate(self._chunks)]
        return np.stack(whole).astype(np.float32)


def _wander(env: TabletopEnv, rng: np.random.Generator, disturbance: Disturbance) -> None:
    """Start somewhere else than home, with the gripper in any state."""
    direction = rng.normal(0.0, 1.0, 3)
    gripper = float(rng.random() < 0.75)
    for _ in range(int(rng.integers(0, disturbance.wander_steps + 1))):
        direction = 0.7 * direction + 0.7 * rng.normal(0.0, 1.0, 3)
        move = 0.022 * direction / max(1.0, float(np.linalg.norm(direction)))
        if env.tcp_commanded.position_m[2] < 0.05:
            move[2] = abs(move[2])  # stay above the blocks: wandering must not disturb them
        env.act(np.concatenate([move, [0.0, 0.0, rng.normal(0.0, 0.06)], [gripper]]))
