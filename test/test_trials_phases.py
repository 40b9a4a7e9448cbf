"""Each step of an episode is known by what it is about."""

from __future__ import annotations

from itertools import groupby

import pytest

from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.trials.evaluate import phase


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("lift", ["approach", "grasp", "carry"]),
        ("bowl", ["approach", "grasp", "carry", "release"]),
        ("push", ["push"]),
    ],
)
def test_the_experts_way_through_a_task_has_its_phases_in_order(task, expected):
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", task, 60)
    found = []
    while not (found and env.success()) and env.steps < env.stage.task.max_steps:
        action = env.expert_action()
        found.append(phase(env, action[None]))
        env.step(action)
    assert [name for name, _ in groupby(found)] == expected
    env.close()
