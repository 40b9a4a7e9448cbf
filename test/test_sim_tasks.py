"""What is asked, in which words, and that the expert can do it from any state."""

from __future__ import annotations

import numpy as np
import pytest

from actdistill_ros.policy.tokenizer import Tokenizer, words
from actdistill_ros.sim import language, layout
from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.sim.staging import TASKS, StagingError


def run_expert(env: TabletopEnv, suite: str, task: str, seed: int, shove: float = 0.0) -> bool:
    env.reset(suite, task, seed)
    rng = np.random.default_rng(seed)
    while env.steps < env.stage.task.max_steps:
        action = env.expert_action()
        if rng.random() < shove:
            action[:3] += rng.normal(0.0, 0.012, 3)
        if env.step(action):
            return True
    return False


def test_the_expert_achieves_98_percent_of_200_seeds_of_the_tabletop_suite():
    env = TabletopEnv(pixels=None)
    results = [run_expert(env, "tabletop", TASKS[seed % 4], seed) for seed in range(200)]
    assert np.mean(results) >= 0.98


def test_the_expert_recovers_from_shoves_and_does_two_step_tasks():
    env = TabletopEnv(pixels=None)
    results = [run_expert(env, "tabletop-hard", TASKS[seed % 4], seed, shove=0.05) for seed in range(40)]
    assert np.mean(results) >= 0.9


def test_a_task_is_not_achieved_before_anything_was_done():
    env = TabletopEnv(pixels=None)
    for seed in range(20):
        env.reset("tabletop", TASKS[seed % 4], seed)
        assert not env.success()


def test_a_block_dropped_beside_the_bowl_does_not_count():
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "bowl", 2)
    block, bowl = env.stage.task.goals[0].block, env.world.bowl
    env.world.place_block(block, bowl[0] + layout.BOWL_RADIUS_M + 0.04, bowl[1], 0.0)
    env.world.step(0.3)
    assert not env.success()
    env.world.place_block(block, bowl[0], bowl[1], 0.0, bowl[2] + 0.03)
    env.world.step(0.3)
    assert env.success()


@pytest.mark.parametrize("suite, task", [("kitchen", "lift"), ("tabletop", "juggle")])
def test_an_unknown_suite_or_task_is_refused_with_the_known_ones(suite, task):
    env = TabletopEnv(pixels=None)
    with pytest.raises(StagingError, match=r"known suites: tabletop|tasks of suite tabletop: lift, bowl"):
        env.reset(suite, task, 0)


def test_held_out_phrases_are_never_used_in_training_but_use_its_words():
    training = set(language.training_instructions(layout.BLOCKS))
    tokenizer = Tokenizer.of(training)
    for kind, templates in language.HELD_OUT.items():
        for template in templates:
            text = template.format(block="red", other="blue", side="left")
            assert text not in training, f"{kind}: {text!r} is a training phrase"
            assert not tokenizer.unknown(text), f"{text!r} has words that training never has"


def test_words_are_read_whatever_the_case_and_punctuation():
    assert words("Put the RED block, in the bowl!") == ["put", "the", "red", "block", "in", "the", "bowl"]


def test_a_nudge_moves_the_block_once_and_the_task_starts_from_there():
    env = TabletopEnv(pixels=None)
    for seed in range(200):
        env.reset("tabletop-hard", "push", seed)
        nudge = env.stage.nudge
        if nudge is None:
            continue
        before = env.world.block(nudge.block)
        while env.steps < nudge.step:
            env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
        moved = env.world.block(nudge.block) - before
        if np.linalg.norm(moved) > 0.01:
            assert moved[:2] == pytest.approx(nudge.shift_m, abs=2e-3)
            assert env.stage.starts[nudge.block] == pytest.approx(env.world.block(nudge.block), abs=2e-3)
            return
    pytest.fail("no seed nudged a block")
