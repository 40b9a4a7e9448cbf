"""Every engine computes the same step, under any plan, and nothing twice that the instruction alone decides."""

from __future__ import annotations

import sys
from functools import partial
from itertools import product
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from distill_parts import LAYERS, PIXELS, random_teacher

from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.engine import TorchEngine
from actdistill_ros.policy.onnx_engine import OnnxEngine, positions, session
from actdistill_ros.policy.onnx_graphs import decoder_of_one_plan
from actdistill_ros.policy.planning import RoutedPlan
from actdistill_ros.policy.runtime import PolicyRuntime

BUNDLED = Path(__file__).resolve().parents[1] / "models/tabletop-student"
SENTENCES = ("lift the red block", "push the blue block left then lift the red block", "lift", "zzz")
TOLERANCE = 1e-4  # [m, rad]; what is measured is below 1e-6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> PolicyRuntime:
    return PolicyRuntime.load(random_teacher(tmp_path_factory.mktemp("teacher")))


@pytest.fixture(scope="module")
def student() -> PolicyRuntime:
    return PolicyRuntime.load(BUNDLED)


def observation(seed: int = 0, instruction: str = SENTENCES[0], size: int = PIXELS) -> Observation:
    """A smooth image with a few squares: pixels of pure noise look alike to an encoder."""
    rng = np.random.default_rng(seed)
    images = {}
    for name in ("front", "wrist"):
        images[name] = np.full((size, size, 3), rng.integers(0, 255, 3), dtype=np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, size - size // 8, 2)
            images[name][top : top + size // 8, left : left + size // 8] = rng.integers(0, 255, 3)
    position = np.array([0.3, 0.0, 0.1]) + rng.uniform(-0.1, 0.1, 3)
    return Observation(images, ArmPose(position, np.eye(3)), float(rng.random()), instruction, 12.5)


def same_actions(a: PolicyRuntime, b: PolicyRuntime, seen: Observation) -> None:
    one, other = a.step(seen), b.step(seen)
    assert np.array_equal(one.executed, other.executed)
    np.testing.assert_allclose(one.chunk.actions, other.chunk.actions, atol=TOLERANCE, rtol=0)


def test_what_is_fastest_here_is_chosen_without_being_asked_for(teacher):
    assert teacher.engine == "onnxruntime"
    assert teacher.with_engine(TorchEngine(teacher.model)).engine == "torch"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_plan_gives_the_actions_that_torch_gives(teacher, sentence):
    reference = teacher.with_engine(TorchEngine(teacher.model))
    for plan in product([False, True], repeat=LAYERS):
        same_actions(teacher.with_plan(plan), reference.with_plan(plan), observation(1, sentence))


def test_plans_differ_so_much_that_a_wrong_layer_would_be_noticed(teacher):
    plans = [[i in kept for i in range(LAYERS)] for kept in ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3))]
    answers = [teacher.with_plan(plan).step(observation(1)).chunk.actions for plan in plans]
    apart = [np.abs(a - b).max() for i, a in enumerate(answers) for b in answers[:i]]
    assert min(apart) > 3 * TOLERANCE


def test_the_bundled_student_and_all_its_layers_give_the_actions_that_torch_gives(student):
    reference = student.with_engine(TorchEngine(student.model))
    full = [True] * student.layers
    for seed, sentence in enumerate(student.contract.instructions[::20]):
        seen = observation(seed, sentence, 192)
        for budget in (0.25, 0.47, 0.8):
            student.set_budget(budget)
            reference.set_budget(budget)
            same_actions(student, reference, seen)
        same_actions(student.with_plan(full), reference.with_plan(full), seen)
    student.set_budget(None)


def test_the_router_decides_as_torch_decides_on_the_same_tokens_under_every_budget(student):
    model, engine = student.model, OnnxEngine(student.model)
    plans = [RoutedPlan(model.router, float(budget)) for budget in model.router.budgets]
    decided = set()
    for seed in range(60):
        sentence = student.contract.instructions[seed * 3 % len(student.contract.instructions)]
        encoded = engine.encode(student.seen(observation(seed, sentence, 192)))
        with torch.no_grad():
            expected = model.router.evidence(torch.from_numpy(encoded[0])[None])[0].numpy()
        found = engine.evidence(encoded)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        for plan in plans:
            executed = plan(partial(np.copy, found)).executed
            assert executed == plan(partial(np.copy, expected)).executed
            decided.add((plan.budget, executed))
    assert len(decided) > len(plans)  # under one budget, not one plan for everything


def test_a_layer_that_the_plan_leaves_out_is_not_run(tmp_path):
    model, contract = checkpoint.load(random_teacher(tmp_path / "teacher"))
    for parameter in model.decoder.layers[2].parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    runtime = PolicyRuntime(model, contract, "broken", engine=OnnxEngine(model))
    without = [i != 2 for i in range(LAYERS)]
    assert np.isfinite(runtime.with_plan(without).step(observation()).chunk.actions).all()
    assert not np.isfinite(runtime.step(observation()).chunk.actions[:, :6]).any()


@pytest.mark.parametrize("engine", [TorchEngine, OnnxEngine])
def test_an_instruction_is_read_once(tmp_path, engine):
    model, contract = checkpoint.load(random_teacher(tmp_path / "teacher"))
    read = []
    model.reader.register_forward_hook(lambda *_: read.append(1))
    runtime = PolicyRuntime(model, contract, "counted", engine=engine(model))
    first = runtime.step(observation()).chunk.actions
    other = runtime.step(observation(instruction=SENTENCES[1])).chunk.actions
    again = runtime.with_plan([True] * LAYERS).step(observation()).chunk.actions
    assert len(read) == 2
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_reading_an_instruction_beforehand_changes_no_bit_of_the_model_s_answer(teacher):
    model, seen = teacher.model, teacher.seen(observation())
    engine = TorchEngine(model)
    with torch.inference_mode():
        images = {
            name: torch.from_numpy(view)[None].permute(0, 3, 1, 2) / 127.5 - 1 for name, view in seen.images.items()
        }
        ids, state = torch.tensor([seen.ids]), torch.from_numpy(seen.state)[None]
        tokens, _, _ = model.embed_inputs(images, ids, state, torch.ones(1))
        for _ in range(2):
            assert torch.equal(engine.encode(seen)[0], tokens)


def test_without_onnxruntime_torch_computes_the_same_actions(teacher, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "actdistill_ros.policy.onnx_engine")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what an import finds where a package is not installed
    lacking = PolicyRuntime.load(random_teacher(tmp_path / "teacher"))
    assert lacking.engine == "torch"
    same_actions(lacking, teacher, observation())


def test_one_graph_for_all_plans_computes_what_a_graph_of_one_plan_computes(teacher):
    model, engine = teacher.model, OnnxEngine(teacher.model)
    encoded = engine.encode(teacher.seen(observation()))
    alone = session(decoder_of_one_plan(model, [0, 2]))
    answer = alone.run(None, {"x": encoded[0], **positions(model, len(encoded[0]))})[0]
    np.testing.assert_allclose(engine.decode(encoded, [True, False, True, False]), answer, atol=1e-5)


def test_a_budget_set_while_another_thread_steps_is_kept_by_every_step(student):
    seen, results = observation(3, student.contract.instructions[0], 192), []
    expected = {}
    for budget in (0.3, 0.9):
        student.set_budget(budget)
        expected[budget] = student.step(seen)
    stepping = Thread(target=lambda: results.extend(student.step(seen) for _ in range(60)))
    stepping.start()
    while stepping.is_alive():
        for budget in expected:
            student.set_budget(budget)
            stepping.join(1e-3)
    student.set_budget(None)
    assert len(results) == 60
    for result in results:
        assert np.array_equal(result.executed, expected[result.budget].executed)
        assert np.array_equal(result.chunk.actions, expected[result.budget].chunk.actions)
