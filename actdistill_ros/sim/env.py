"""The closed loop without ROS: one scene, actions in, observations out, as fast as the machine goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from actdistill_ros.contract.chunk import GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.control import envelope, settings
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.pose import integrate
from actdistill_ros.sim import expert, layout
from actdistill_ros.sim.staging import Stage, set_stage
from actdistill_ros.sim.tasks import achieved
from actdistill_ros.sim.world import Eyes, World

PERIOD_S = 0.1
TICKS = 5  # joint commands per action
HOME_Q = X5.chain.solve(ArmPose(layout.HOME_TCP_M, layout.GRIPPER_DOWN), np.array([0.0, 1.5, 1.2, -1.2, 0.0, 0.0])).q


class TabletopEnv:
    """One arm at one table. Deterministic for a given sequence of calls."""

    def __init__(
        self, pixels: int | None = layout.FRAME_PIXELS, meshes: Mapping[str, Path] = MappingProxyType({})
    ) -> None:
        """`pixels=None` renders nothing (labels and expert runs need no pictures). meshes: see `World`."""
        self.world = World(meshes)
        self._settings = settings.load()
        self.eyes = Eyes(self.world.model, pixels) if pixels else None
        self.stage: Stage | None = None
        self.steps = 0

    def reset(self, suite: str, task: str, seed: int, held_out: bool = False) -> Observation | None:
        """Set the scene; the arm hovers over the table with the gripper open."""
        self.world.set_joints(HOME_Q, 1.0)
        self.stage = set_stage(self.world, suite, task, seed, held_out)
        self.tcp_commanded = X5.chain.forward(HOME_Q)
        self.q_commanded = HOME_Q.copy()
        self.gripper_commanded = 1.0
        self.steps = 0
        self.world.step(0.2)
        return self.observe()

    def observe(self) -> Observation | None:
        if self.eyes is None:
            return None
        images = {name: self.eyes.see(self.world.data, name).copy() for name in layout.CAMERAS}
        return Observation(
            images, self.tcp_commanded, self.world.gripper, self.stage.task.instruction, self.world.time_s
        )

    def act(self, action: np.ndarray) -> None:
        """One action (7,) over one period."""
        wanted = integrate(self.tcp_commanded, action[TRANSLATION], action[ROTATION])
        goal, _ = envelope.clamp_to_workspace(wanted, self.tcp_commanded, self._settings)
        solution = X5.chain.solve(goal, self.q_commanded)
        start, q = self.q_commanded, solution.q
        gripper = float(np.clip(action[GRIPPER], 0.0, 1.0))
        if envelope.solution_refusal(solution, goal, start, self._settings):
            q, goal, gripper = start, self.tcp_commanded, self.gripper_commanded  # the driver refuses it too, and holds
        for tick in range(1, TICKS + 1):
            self.world.command(start + (q - start) * (tick / TICKS), gripper)
            self.world.step(PERIOD_S / TICKS)
        self.q_commanded, self.tcp_commanded, self.gripper_commanded = q, goal, gripper

    def step(self, action: np.ndarray) -> bool:
        """`act`, count, let a nudge happen; whether the task is achieved now."""
        self.act(action)
        self.steps += 1
        self.nudge()
        return self.success()

    def success(self) -> bool:
        return achieved(self.world, self.stage.task, self.stage.starts)

    def expert_action(self) -> np.ndarray:
        return expert.next_action(self.world, self.stage.task, self.tcp_commanded)

    def expert_chunk(self, length: int) -> np.ndarray:
        """(length, 7): what the expert would do from here; the world is put back as it was."""
        snapshot, before = self.world.save(), (self.tcp_commanded, self.q_commanded, self.gripper_commanded)
        actions = np.empty((length, 7))
        for i in range(length):
            actions[i] = self.expert_action()
            self.act(actions[i])
        self.world.restore(snapshot)
        self.tcp_commanded, self.q_commanded, self.gripper_commanded = before
        return actions

    def nudge(self) -> None:
        nudge = self.stage.nudge
        if nudge is None or self.steps != nudge.step:
            return
        at = self.world.block(nudge.block)
        moved = at[:2] + np.array(nudge.shift_m)
        near = [self.world.block(b)[:2] for b in layout.BLOCKS if b != nudge.block] + [self.world.bowl[:2]]
        on_table = abs(at[2] - layout.TABLE_Z_M - layout.BLOCK_SIDE_M / 2) < 0.005
        touched = float(np.linalg.norm(at - self.world.tcp.position_m)) < 0.07
        if on_table and not touched and min(float(np.hypot(*(moved - p))) for p in near) > 0.085:
            self.world.place_block(nudge.block, *moved, self.world.block_yaw(nudge.block))
            self.world.settle()
            self.stage.starts[nudge.block] = self.world.block(nudge.block)

    def close(self) -> None:
        if self.eyes is not None:
            self.eyes.close()
