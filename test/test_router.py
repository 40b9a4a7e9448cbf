"""The plan is fixed before the first layer, keeps to its budget, and is run as the router chose it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from distill_parts import LAYERS, PIXELS, random_teacher

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.distill.student import StudentSettings, derive
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.budgets import GRID, threshold
from actdistill_ros.policy.engine import TorchEngine
from actdistill_ros.policy.planning import RandomPlan
from actdistill_ros.policy.router import Router
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.trials import candidate

WIDTH, DEPTH, VISION = 12, 6, 3


@pytest.fixture
def router() -> Router:
    torch.manual_seed(0)
    made = Router(WIDTH, 8, DEPTH, VISION).eval()
    torch.nn.init.normal_(made.gate.weight, std=0.3)
    return made


def inputs(samples: int, words: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(samples, words + VISION + 2, WIDTH, generator=torch.Generator().manual_seed(1))
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


def observation(seed: int = 0, instruction: str = "lift the red block") -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return Observation(images, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, instruction, 12.5)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A routed checkpoint of six layers, whose router listens to its input, calibrated on random ones."""
    folder = random_teacher(tmp_path_factory.mktemp("student"), layers=6)
    teacher, contract = checkpoint.load(folder)
    place = (torch.tensor([0, 2, 3, 4, 5, 1]) + 0.5) / 6
    model = derive(teacher, place, StudentSettings(budget=0.5))
    torch.nn.init.normal_(model.router.gate.weight, std=1.0)
    tokens = torch.randn(200, 10, 20)
    with torch.no_grad():
        model.router.calibrate(model.router.evidence(tokens, torch.ones(200, 10, dtype=torch.bool)))
    checkpoint.save(folder, model, contract)
    return folder


def test_an_untrained_router_gives_each_budget_the_layers_of_highest_rank():
    router = Router(WIDTH, 8, 4, VISION)
    router.place.data = torch.tensor([0.125, 0.875, 0.625, 0.375])
    tokens, present = inputs(1)
    for budget, expected in ((0.25, [1, 0, 0, 0]), (0.5, [1, 0, 0, 1]), (0.75, [1, 0, 1, 1]), (1.0, [1, 1, 1, 1])):
        gates = router(tokens, present, torch.tensor([budget]))[0] > 0
        assert gates.int().tolist() == expected


def test_padded_words_change_no_score(router):
    tokens, present = inputs(2)
    padded = torch.cat([tokens[:, :4], torch.full((2, 2, WIDTH), 9.0), tokens[:, 4:]], dim=1)
    mask = torch.cat([present[:, :4], torch.zeros(2, 2, dtype=torch.bool), present[:, 4:]], dim=1)
    budget = torch.full((2,), 0.5)
    assert torch.allclose(router(tokens, present, budget), router(padded, mask, budget), atol=1e-5)
    assert torch.allclose(router.evidence(tokens), router.evidence(tokens, present), atol=1e-5)


def test_vision_language_and_state_each_move_the_scores(router):
    tokens, present = inputs(1)
    budget = torch.tensor([0.5])
    before = router(tokens, present, budget)
    for place in (0, 5, -2):
        changed = tokens.clone()
        changed[:, place] += 1.0
        assert not torch.allclose(router(changed, present, budget), before, atol=1e-4)


def test_a_threshold_lets_no_more_run_than_the_budget():
    scores = torch.tensor([[9.0, 5.0, 1.0, 9.0], [9.0, 4.0, 2.0, 9.0]])
    always = torch.tensor([True, False, False, True])
    assert threshold(scores, always, 0.5) == 5.0  # first and last use it up: nothing scores above 5
    assert threshold(scores, always, 0.75) == 2.0  # two more of the four free ones: 5 and 4
    assert threshold(scores, always, 1.0) == -math.inf
    assert threshold(scores, always, 0.4) == math.inf


def test_calibration_meets_every_budget_and_never_exceeds_it(router):
    tokens, present = inputs(300)
    with torch.no_grad():
        router.calibrate(router.evidence(tokens, present))
    met = router.budgets >= 2 / DEPTH
    assert (router.shares[met] <= router.budgets[met] + 1e-6).all()
    assert torch.allclose(router.shares[met], router.budgets[met], atol=0.005)
    assert router.shares[-1] == 1.0


def test_a_router_that_hears_nothing_keeps_to_its_budget_though_all_inputs_tie():
    router = Router(WIDTH, 8, DEPTH, VISION)
    tokens, present = inputs(300)
    with torch.no_grad():
        router.calibrate(router.evidence(tokens, present))
        for budget in (0.4, 0.5, 0.7, 1.0):
            at, limit = router.at(budget)
            runs = (router(tokens[:1], present[:1], torch.tensor([at])) > limit) | router.always
            assert runs.float().mean() == math.floor(budget * DEPTH + 1e-6) / DEPTH


def test_a_budget_between_two_calibrated_ones_is_rounded_down(router):
    assert router.at(0.478)[0] == pytest.approx(0.47)
    assert router.at(1.0)[0] == router.at(1.0 - 1e-12)[0] == 1.0 and len(router.budgets) == GRID
    with pytest.raises(ValueError, match="budget 0.2 is not in 0.25"):
        router.at(0.2)


def test_more_budget_takes_no_layer_away(student):
    runtime = PolicyRuntime.load(student)
    before = np.zeros(6, dtype=bool)
    for budget in np.linspace(0.25, 1.0, 16):
        runtime.set_budget(float(budget))
        executed = runtime.step(observation()).executed
        assert not (before & ~executed).any()
        before = executed
    assert before.all()


def test_only_the_layers_of_the_plan_are_called_and_what_they_answer_is_what_the_plan_answers(student):
    model, contract = checkpoint.load(student)
    called = []
    for i, layer in enumerate(model.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    runtime = PolicyRuntime(model, contract, "student", engine=TorchEngine(model))
    result = runtime.step(observation())
    assert called == np.flatnonzero(result.executed).tolist() and 0 in called and 5 in called
    assert 2 <= len(called) < 6
    same = runtime.with_plan(result.executed.tolist()).step(observation())
    assert np.array_equal(result.chunk.actions, same.chunk.actions)


def test_different_observations_get_different_plans(student):
    runtime = PolicyRuntime.load(student)
    plans = {
        tuple(runtime.step(observation(seed, text)).executed) for seed in range(6) for text in ("lift", "push left")
    }
    assert len(plans) > 1


def test_a_step_reports_gates_plan_budget_and_share(student):
    runtime = PolicyRuntime.load(student)
    assert runtime.budget == 0.5
    result = runtime.step(observation())
    assert result.gates.shape == result.executed.shape == (6,)
    assert ((result.gates >= 0) & (result.gates <= 1)).all()
    assert result.budget == 0.5 and result.compute_share == pytest.approx(result.executed.mean())
    assert {"encode", "router", "decoder", "head", "step"} <= result.latency_ms.keys()


def test_the_budget_of_a_running_policy_can_change_and_go_back_to_its_own(student):
    runtime = PolicyRuntime.load(student)
    runtime.set_budget(1.0)
    assert runtime.step(observation()).executed.all() and runtime.budget == 1.0
    runtime.set_budget(None)
    assert runtime.budget == 0.5
    with pytest.raises(ContractError, match="budget 0.1 is not in 0.25 … 1"):
        runtime.set_budget(0.1)


def test_a_policy_without_router_refuses_to_run_less_than_all(tmp_path):
    runtime = PolicyRuntime.load(random_teacher(tmp_path / "teacher"))
    runtime.set_budget(1.0)
    with pytest.raises(ContractError, match="has no router .* budget 0.5 cannot be met"):
        runtime.set_budget(0.5)
    assert runtime.step(observation()).executed.tolist() == [True] * LAYERS


def test_evaluation_runs_the_plan_it_was_asked_for(student):
    def asked(budget, plan):
        return candidate.planned(PolicyRuntime.load(student), budget, plan, seed=3)

    assert asked(None, "router").budget == 0.5 and asked(0.75, "router").budget == 0.75
    assert np.flatnonzero(asked(None, "0,2,5").step(observation()).executed).tolist() == [0, 2, 5]
    drawn = asked(0.5, "random")
    assert drawn.budget == 0.5 and len({tuple(drawn.step(observation()).executed) for _ in range(8)}) > 1
    with pytest.raises(ContractError, match="--plan 0,6 is neither router nor random nor layers of 0 … 5"):
        asked(None, "0,6")
    with pytest.raises(ContractError, match="budget 0.1 is not in 0.33 … 1"):
        asked(0.1, "random")


def test_a_checkpoint_without_router_says_nothing_about_one(tmp_path):
    folder = random_teacher(tmp_path / "teacher")
    assert "router" not in (folder / checkpoint.CONFIG).read_text()


def test_random_plans_keep_to_the_budget_on_average_and_repeat_with_the_seed():
    def plans(seed: int) -> np.ndarray:
        planner = RandomPlan(12, 0.47, seed)
        return np.array([planner(None).executed for _ in range(400)])

    drawn = plans(1)
    assert drawn[:, 0].all() and drawn[:, -1].all()
    assert drawn.mean() == pytest.approx(0.47, abs=0.01)
    assert np.array_equal(drawn, plans(1)) and not np.array_equal(drawn, plans(2))
    assert (drawn[:, 1:-1].mean(0) > 0.2).all()
    with pytest.raises(ValueError, match="budget 0.1 is not in 0.17"):
        RandomPlan(12, 0.1, 0)
