"""The ROS-free loop and the driver turn the same actions into the same joint commands, so that training means the
robot."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import SETTINGS, Bench

from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control.modes import Mode
from actdistill_ros.sim.env import PERIOD_S, TabletopEnv


def drive(actions: np.ndarray) -> list[np.ndarray]:
    """Joint commands at the end of each action, from a driver whose motors follow perfectly."""
    bench = Bench()
    assert bench.driver.set_mode(Mode.POLICY) == ""
    assert bench.driver.offer(Chunk(actions, PERIOD_S, len(actions), bench.clock.now_s, "lift", "test")) == ""
    ends = []
    for _ in actions:
        bench.run(PERIOD_S)
        ends.append(bench.q)
    return ends


@pytest.mark.parametrize("seed", range(5))
def test_both_loops_command_the_same_joints(seed):
    rng = np.random.default_rng(seed)
    actions = np.concatenate(
        [rng.uniform(-0.02, 0.02, (8, 3)), rng.uniform(-0.08, 0.08, (8, 3)), rng.integers(0, 2, (8, 1))], axis=1
    )
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "lift", 0)
    expected = []
    for action in actions:
        env.act(action)
        expected.append(env.q_commanded.copy())
    assert np.stack(drive(actions)) == pytest.approx(np.stack(expected), abs=1e-4)


def test_both_loops_stop_at_the_same_workspace_edge():
    actions = np.tile([0.0, 0.0, -0.03, 0.0, 0.0, 0.0, 1.0], (8, 1))
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "lift", 0)
    for action in actions:
        env.act(action)
    assert drive(actions)[-1] == pytest.approx(env.q_commanded, abs=1e-4)
    assert env.tcp_commanded.position_m[2] == pytest.approx(SETTINGS.workspace_min_m[2])
