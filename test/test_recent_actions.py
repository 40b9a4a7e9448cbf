"""A router that is told the actions commanded last: the same in training as at run time, and never another
episode's."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_parts import CAMERAS, LAYERS, LENGTH, PIXELS, SENTENCES, parse, random_data, random_teacher

from actdistill_ros import cli
from actdistill_ros.bench import engines
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.contract.preprocess import normalise
from actdistill_ros.data.episode import Episode
from actdistill_ros.data.writer import Writer
from actdistill_ros.distill import command, controls
from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.probing import make_heads
from actdistill_ros.distill.student import Student, StudentSettings, derive
from actdistill_ros.distill.teacher import Teacher
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.batches import RECENT_DROPOUT, Batcher, Samples
from actdistill_ros.policy.engine import TorchEngine
from actdistill_ros.policy.onnx_engine import OnnxEngine
from actdistill_ros.policy.recent import LATE
from actdistill_ros.policy.router import Router
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.policy.tokenizer import Tokenizer
from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.trials import candidate, evaluate

BUNDLED = Path(__file__).parents[1] / "models" / "tabletop-student"
SETTINGS = StudentSettings(budget=0.75, steps=4, batch=8, groups=4, warmup=2, recent=3)
EXECUTE, PERIOD = 4, 0.1  # of `random_teacher`


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return random_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data) -> Teacher:
    torch.set_num_threads(1)
    return Teacher(random_teacher(tmp_path_factory.mktemp("teacher")), [data], "float32")


def told(folder: Path, recent: int = 3) -> PolicyRuntime:
    """A student with random weights whose router listens to all that it is told; half of its layers run."""
    model, contract = checkpoint.load(random_teacher(folder))
    torch.manual_seed(1)
    place = (torch.tensor([0, 2, 3, 1]) + 0.5) / LAYERS
    student = derive(model, place, replace(SETTINGS, recent=recent)).eval()
    torch.nn.init.normal_(student.router.gate.weight, std=1.0)
    return PolicyRuntime(student.requires_grad_(False), contract, "told")


@pytest.fixture
def runtime(tmp_path) -> PolicyRuntime:
    return told(tmp_path / "told")


def observation(seed: int = 0, stamp_s: float = 12.5, instruction: str = SENTENCES[0]) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8) for name in CAMERAS}
    return Observation(images, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, instruction, stamp_s)


# -- what training sees
def test_what_was_commanded_before_a_frame_is_of_its_own_episode_and_unknown_before_its_start(teacher):
    samples, statistics = teacher.samples, teacher.contract.active_statistics
    frames = np.arange(len(samples.state))
    found = teacher.batcher.at(frames, recent=3).recent.numpy()  # (F, 3, 8)
    for frame in frames:
        place = frame % LENGTH
        known = min(3, place)
        own = normalise(samples.action[frame - known : frame].astype(np.float64), statistics)
        assert np.allclose(found[frame, 3 - known :, :7], np.clip(own, -1, 1), atol=1e-6)
        assert (found[frame, 3 - known :, 7] == 1).all()
        assert (found[frame, : 3 - known] == 0).all()
    assert len(np.unique(found[..., 0])) > 100, "the data say something"


def test_training_hides_recent_actions_now_and_then_from_the_oldest_on_as_after_a_start(teacher):
    batches = [teacher.batcher.train(0, step, 64, recent=3) for step in range(12)]
    known = torch.cat([batch.recent[..., 7] for batch in batches])  # (S, 3)
    assert (known.diff(dim=1) >= 0).all(), "what is hidden is older than what is known"
    of_data = torch.arange(LENGTH).clamp(max=3).eq(3).float().mean().item()  # three are known in half of the frames
    assert known.all(1).float().mean().item() == pytest.approx(of_data * (1 - RECENT_DROPOUT), abs=0.06)


def test_recent_actions_change_nothing_else_of_a_batch_and_shares_together_are_the_batch(teacher):
    whole, without = teacher.batcher.train(3, 1, 16, recent=2), teacher.batcher.train(3, 1, 16)
    assert without.recent.shape == (16, 0, 8)
    for name in ("instruction", "state", "pose_known", "chunk", "aux"):
        assert torch.equal(getattr(whole, name), getattr(without, name))
    assert all(torch.equal(whole.images[name], without.images[name]) for name in whole.images)
    halves = [teacher.batcher.train(3, 1, 16, slice(start, start + 8), recent=2).recent for start in (0, 8)]
    assert torch.equal(torch.cat(halves), whole.recent)


# -- what a running policy sees
class Noted:
    """A runtime that keeps what its router was told, and every chunk."""

    def __init__(self, runtime: PolicyRuntime) -> None:
        self.contract, self.locate, self.reset, self._runtime = (
            runtime.contract,
            runtime.locate,
            runtime.reset,
            runtime,
        )
        self.told: list[np.ndarray] = []

    def step(self, observation: Observation):
        self.told.append(self._runtime.seen(observation).recent)
        return self._runtime.step(observation)


class Taped:
    """The simulated world with a tape of the actions that were run in it."""

    def __init__(self, env: TabletopEnv) -> None:
        self._env, self.actions = env, []

    def __getattr__(self, name: str):
        return getattr(self._env, name)

    def step(self, action: np.ndarray) -> bool:
        self.actions.append(action)
        return self._env.step(action)


@pytest.fixture(scope="module")
def env():
    made = TabletopEnv()
    yield made
    made.close()


def order(execute: int | None) -> evaluate.Order:
    return evaluate.Order(Path("x"), "tabletop", (), False, execute, False, 1, None, "router")


def recorded_again(folder: Path, tapes: list[np.ndarray]) -> Samples:
    """The episodes as a data set; only their actions matter."""
    extras, sizes = {"chunk": (8, 7), "aux": (20,)}, {name: (PIXELS, PIXELS) for name in CAMERAS}
    with Writer.open(folder, sizes, 10, "arx_x5", extras, episodes_per_file=4) as out:
        for seed, actions in enumerate(tapes):
            n = len(actions)
            images = {name: np.zeros((n, PIXELS, PIXELS, 3), np.uint8) for name in CAMERAS}
            more = {"chunk": np.zeros((n, 8, 7), np.float32), "aux": np.zeros((n, 20), np.float32)}
            out.add(Episode(images, np.zeros((n, 10), np.float32), actions, SENTENCES[0], seed, more))
    return Samples([folder], CAMERAS, PIXELS)


@pytest.mark.parametrize("execute", [EXECUTE, 2])
def test_a_running_policy_is_told_what_training_would_have_seen_of_the_same_episodes(tmp_path, env, execute):
    runtime = told(tmp_path / "told").with_execute(execute)
    noted, tapes = Noted(runtime), []
    for seed in (1, 1):  # the same words twice, one after the other, in the same runtime
        taped = Taped(env)
        evaluate.episode(taped, noted, order(execute), 0, "lift", seed)
        tapes.append(np.asarray(taped.actions, dtype=np.float32))
    samples = recorded_again(tmp_path / "again", tapes)
    batcher = Batcher(samples, Tokenizer(SENTENCES), runtime.contract.active_statistics)
    looked = np.concatenate(
        [first + np.arange(0, len(t), execute) for first, t in zip(samples.first, tapes, strict=True)]
    )
    expected = batcher.at(looked, recent=3).recent.numpy()
    assert np.allclose(np.stack(noted.told), expected, atol=1e-5)
    assert expected[:, -1, 7].sum() == len(looked) - 2 > 10, "all but the two first steps know something"


def steps(runtime: PolicyRuntime, *stamps_s: float) -> np.ndarray:
    """(N,) which slots are known at the last of these times, after steps at the ones before."""
    for stamp_s in stamps_s[:-1]:
        runtime.step(observation(stamp_s=stamp_s))
    return runtime.seen(observation(stamp_s=stamps_s[-1])).recent[:, 7]


def test_an_observation_belongs_to_what_was_done_before_it_though_its_frame_is_old_or_late(runtime):
    for after_s in (EXECUTE * PERIOD - 0.06, EXECUTE * PERIOD, EXECUTE * PERIOD + 0.3):
        runtime.reset()
        assert steps(runtime, 10.0, 10.0 + after_s).all()


@pytest.mark.parametrize("after_s", [0.0, -5.0, (EXECUTE - 2) * PERIOD, (EXECUTE + LATE) * PERIOD + 0.01, 60.0])
def test_a_pause_an_early_look_and_a_clock_set_back_forget_what_was_done(runtime, after_s):
    assert not steps(runtime, 10.0, 10.4, 10.4 + after_s).any()


def test_another_instruction_forgets_what_was_done(runtime):
    runtime.step(observation(stamp_s=10.0))
    assert not runtime.seen(observation(stamp_s=10.4, instruction=SENTENCES[1])).recent.any()


def test_a_reset_forgets_what_was_done(runtime):
    runtime.step(observation(stamp_s=10.0))
    runtime.reset()
    assert not steps(runtime, 10.4).any()


def test_what_a_policy_executes_of_a_chunk_is_within_the_chunk(runtime):
    with pytest.raises(ContractError, match="chunks of 8 actions; execute 9 is not one of 1 … 8"):
        runtime.with_execute(9)
    assert runtime.with_execute(2).step(observation()).chunk.execute == 2
    assert candidate.load(BUNDLED, 2).contract.action.execute == 2, "as `actdistill eval --execute 2` asks for"


# -- the router and its engines
def test_recent_actions_move_the_scores_of_a_router_that_is_told_them():
    torch.manual_seed(0)
    router = Router(12, 8, 6, 3, (2, 8)).eval()
    tokens, none = torch.randn(1, 9, 12), torch.zeros(1, 2, 8)
    for parameter in (router.gate.weight, router.recent[1].weight):
        torch.nn.init.normal_(parameter, std=0.3)
    before = router.evidence(tokens, recent=none)
    for slot in range(2):
        changed = none.clone()
        changed[0, slot] = 1.0
        assert not torch.allclose(router.evidence(tokens, recent=changed), before, atol=1e-4)


def test_both_engines_score_recent_actions_alike_and_run_the_same_layers(runtime):
    model = runtime.model
    ways = [runtime.with_engine(engine) for engine in (TorchEngine(model), OnnxEngine(model))]
    plans = set()
    for i in range(8):
        seen = observation(seed=i // 4, stamp_s=10.0 + EXECUTE * PERIOD * i)
        a, b = (way.step(seen) for way in ways)
        assert np.allclose(a.gates, b.gates, atol=1e-5) and np.array_equal(a.executed, b.executed)
        assert np.allclose(a.chunk.actions, b.chunk.actions, atol=1e-5)
        plans.add(tuple(b.gates.round(4)))
    assert len(plans) == 4, "each of two pictures is scored otherwise after other actions"


# -- checkpoints
def test_a_student_that_is_told_nothing_keeps_its_keys_its_config_and_its_very_bytes(tmp_path):
    checkpoint.save(tmp_path, *checkpoint.load(BUNDLED))
    for name in (checkpoint.CONFIG, checkpoint.WEIGHTS):
        assert (tmp_path / name).read_bytes() == (BUNDLED / name).read_bytes()
    assert not any(key.startswith("router.recent") for key in checkpoint.load(BUNDLED)[0].state_dict())


def test_a_run_without_recent_actions_has_the_settings_of_runs_that_did_not_know_them(teacher):
    heads = make_heads(teacher, HeadConfig(bottleneck=8, semantic=6, neighbours=2))
    place = torch.linspace(0, 1, LAYERS)
    without, with_them = (
        json.loads(Student("s", teacher, heads, place, replace(SETTINGS, recent=n)).settings) for n in (0, 3)
    )
    assert "recent" not in without and with_them == without | {"recent": 3}


def test_a_checkpoint_says_how_many_recent_actions_it_is_told(tmp_path, runtime):
    checkpoint.save(tmp_path / "saved", runtime.model, runtime.contract)
    assert json.loads((tmp_path / "saved" / checkpoint.CONFIG).read_text())["router"]["recent"] == 3
    again = PolicyRuntime.load(tmp_path / "saved")
    for stamp_s in (10.0, 10.4):
        a, b = (way.step(observation(stamp_s=stamp_s)) for way in (runtime, again))
        assert np.array_equal(a.gates, b.gates)
    assert again.seen(observation(stamp_s=10.8)).recent.shape == (3, 8)


# -- the whole
@torch.no_grad()
def calibrated(stage: Student, teacher: Teacher, known: float) -> torch.Tensor:
    """The thresholds that held-out samples give, their recent actions multiplied by `known`."""
    router, evidence = deepcopy(stage.model.router), []
    for batch in teacher.held_out(64, 3):
        given = teacher.give(batch)
        evidence.append(router.evidence(given.tokens, given.present, known * given.recent))
    router.calibrate(torch.cat(evidence))
    return router.thresholds


def test_the_router_learns_from_recent_actions_and_its_thresholds_are_found_with_them(teacher):
    heads = make_heads(teacher, HeadConfig(bottleneck=8, semantic=6, neighbours=2))
    stage = Student("s", teacher, heads, torch.linspace(0, 1, LAYERS), SETTINGS)
    weight = stage.model.router.recent[1].weight
    before = weight.detach().clone()
    stage.update()
    stage.update()
    assert not torch.equal(weight, before)
    torch.nn.init.normal_(stage.model.router.gate.weight, std=1.0)
    stage.average = {name: p.detach().clone() for name, p in stage._trained().items()}
    found = stage.finished(64).router.thresholds
    assert torch.allclose(found, calibrated(stage, teacher, known=1.0), atol=1e-5)
    assert not torch.allclose(found, calibrated(stage, teacher, known=0.0), atol=1e-2)


def test_controls_with_fixed_layers_are_told_nothing_and_a_negative_number_is_refused():
    made = controls.make(controls.NAMES, [2, 1], LAYERS, SETTINGS)
    assert {one.name: one.settings.recent for one in made if one.name in controls.FIXED} == dict.fromkeys(
        controls.FIXED, 0
    )
    assert all(one.settings.recent == 3 for one in made if one.name not in controls.FIXED)
    with pytest.raises(DistillError, match="--recent-actions -1 is not a number of actions"):
        replace(SETTINGS, recent=-1).check()


def test_a_student_told_two_actions_is_trained_calibrated_judged_and_measured(data, env, tmp_path):
    small = ["--steps", 4, "--probe-steps", 2, "--batch", 8, "--threads", 1, "--eval-episodes", 0]
    out = tmp_path / "student"
    words = ["--teacher", random_teacher(tmp_path / "teacher"), "--data", data, "--out", out, "--budget", 0.75, *small]
    assert command.run(parse(*words, "--recent-actions", 2)) == 0
    assert "--recent-actions 2" in json.loads((out / "report.json").read_text())["commands"][0]
    runtime = PolicyRuntime.load(out)
    router = runtime.model.router
    assert router.recent[1].weight.shape == (32, 16) and router.shares[-1] == 1.0
    outcome = evaluate.episode(env, runtime, order(None), 0, "lift", 1)
    assert len(outcome.frequency) == LAYERS and outcome.budget == 0.75
    look = observation()
    assert engines.evidence_ms(runtime, look, rounds=2) >= 0.0
    found = tmp_path / "depth.json"
    asked = ["--checkpoint", out, "--engine", "torch", "--seconds", 0, "--threads", 1, "--json", found]
    assert cli.main(["bench", "depth", *map(str, asked)]) == 0
    assert 0.0 < json.loads(found.read_text())["router_share"] < 1.0
