"""A distilled VLA runs the layers that its router chooses, under any budget, and is judged as any policy is."""

# ruff: noqa: F811

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from vla_parts import edit_json, given_to_decoder, hf_folder, linked_copy, scene  # noqa: F401
from vla_student_parts import LAYERS, cogact, made, openvla, router, spoil, student  # noqa: F401

from actdistill_ros import bringup, cli
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import loading
from actdistill_ros.policy.planning import FixedPlan, RoutedPlan
from actdistill_ros.policy.vla import student_folder
from actdistill_ros.trials import evaluate


def observation(seed: int = 0) -> Observation:
    image, instruction = scene(seed)
    return Observation({"front": image}, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, instruction, 7.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_runs_the_layers_that_the_router_chooses_and_answers_as_they_do(made, router, seed):
    runtime = loading.load(made)
    called = []
    for i, layer in enumerate(runtime._checkpoint.model.vlm.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    result = runtime.step(observation(seed))
    with torch.no_grad():
        evidence = router.evidence(given_to_decoder(runtime._checkpoint, seed))[0].numpy()
    plan = RoutedPlan(router, 0.75)(lambda: evidence)
    assert result.executed.tolist() == list(plan.executed) and np.allclose(result.gates, plan.gates, atol=1e-4)
    assert called == np.flatnonzero(result.executed).tolist() * 7
    assert result.budget == runtime.budget == 0.75 and result.latency_ms["router"] > 0
    same = runtime.with_planner(FixedPlan(result.executed.tolist())).step(observation(seed))
    assert np.array_equal(same.chunk.actions, result.chunk.actions)


def test_inputs_get_different_layers_and_on_average_no_more_than_the_budget(made):
    runtime = loading.load(made)
    plans = [tuple(runtime.step(observation(seed)).executed) for seed in range(16)]  # those it was calibrated on
    assert len(set(plans)) > 1 and np.mean(plans) <= 0.75 + 1e-9


def test_more_budget_takes_no_layer_away_and_none_is_the_trained_one(made):
    runtime, before = loading.load(made), np.zeros(LAYERS, dtype=bool)
    for budget in (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0):
        runtime.set_budget(budget)
        result = runtime.step(observation())
        assert not (before & ~result.executed).any() and result.budget == runtime.budget == budget
        before = result.executed
    assert before.all()
    with pytest.raises(ContractError, match=r"student@.*: budget 0.2 is not in 0.25 … 1"):
        runtime.set_budget(0.2)
    assert runtime.budget == 1.0
    runtime.set_budget(None)
    assert runtime.budget == 0.75


def test_two_students_that_differ_in_their_router_only_have_different_names(student):
    before = loading.load(student).checkpoint_id
    spoil(student, place=torch.linspace(0.0, 1.0, LAYERS))
    assert before.startswith("student@") and loading.load(student).checkpoint_id != before


def test_a_cogact_student_is_routed_too_and_begins_anew_with_each_episode(cogact, router, tmp_path):
    student_folder.save(tmp_path / "student", cogact, {}, router, 0.5)
    runtime = loading.load(tmp_path / "student")
    first = runtime.step(observation())
    assert first.chunk.actions.shape == (16, 7) and first.executed.sum() == 2 and first.budget == 0.5
    again = runtime.step(observation())
    runtime.reset()
    assert np.array_equal(runtime.step(observation()).chunk.actions, first.chunk.actions)
    assert not np.array_equal(again.chunk.actions, first.chunk.actions)


def test_what_a_student_promises_is_known_before_it_is_loaded(made, cogact, router, tmp_path):
    chunked = tmp_path / "student"
    student_folder.save(chunked, cogact, {}, router, 0.5)
    edit_json(chunked / "deployment.json", lambda told: told | {"execute": 4})
    for folder in (made, chunked):
        assert loading.contract(folder) == loading.load(folder).contract


# -- the command
def test_a_graph_is_brought_up_around_a_student_with_its_camera_and_budget(made):
    graph = bringup.plan({"checkpoint": str(made), "budget": "0.4"}, lambda *_: None, {}, terminal=lambda: "")
    nodes = {node.name: node.parameters for node in graph.nodes}
    assert nodes["camera_node"]["cameras"] == ("front",) == nodes["inference_node"]["cameras"]
    assert nodes["inference_node"]["budget"] == 0.4 and nodes["inference_node"]["checkpoint"] == str(made)


def test_a_student_is_judged_on_the_tabletop_at_another_budget(cogact, router, tmp_path, capsys, monkeypatch):
    student = tmp_path / "student"
    student_folder.save(student, cogact, {}, router, 0.75)
    edit_json(student / "deployment.json", lambda told: told | {"frame": [192, 192], "period_s": 0.1, "execute": 16})
    words = ["eval", "--checkpoint", str(student), "--episodes", "1", "--task", "lift", "--workers", "1"]
    assert cli.main([*words, "--budget", "0.5", "--json", str(tmp_path / "report.json")]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["budget"] == 0.5 and found["decoder_flops_share"] == 0.5 and found["layers_executed_mean"] == 2
    assert found["dtype"] == "float32" and found["first_look_mm"] is None and len(found["outcomes"]) == 1
    monkeypatch.setattr(evaluate, "_all", lambda *_: pytest.fail("no worker is started for what cannot be judged"))
    for more, said in (
        (["--budget", "0.1"], "budget 0.1 is not in 0.25 … 1"),
        (["--plan", "0,9"], "--plan 0,9 is neither router nor random nor layers of 0 … 3"),
        (["--plan", "0,3", "--budget", "0.75"], "--plan 0,3 runs 0.5 of the decoder in every step"),
        (["--execute", "17"], "execute 17 is not one of 1 … 16"),
    ):
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_weights_that_cannot_be_judged_are_loaded_once_and_named_in_a_sentence(cogact, tmp_path, capsys, monkeypatch):
    """By the worker: weights that fit a card once do not fit it twice."""
    teacher = linked_copy(cogact, tmp_path / "teacher")
    edit_json(teacher / "deployment.json", lambda told: told | {"frame": [192, 192], "period_s": 0.1})
    path = next((teacher / "checkpoints").glob("*.pt"))
    tensors = torch.load(path, weights_only=True)
    next(iter(tensors["model"]["projector"].values())).fill_(float("nan"))
    path.unlink()
    torch.save(tensors, path)
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("loaded where nothing is judged"))
    assert cli.main(["eval", "--checkpoint", str(teacher), "--episodes", "1"]) == 2
    said = capsys.readouterr().err
    assert "is not finite as float32" in said and "Traceback" not in said


def test_a_student_of_another_camera_or_rate_is_not_judged_on_the_tabletop(student, capsys):
    assert cli.main(["eval", "--checkpoint", str(student), "--episodes", "1"]) == 2
    said = capsys.readouterr().err
    assert "an action each 0.2 s and cameras front of 48 × 64; the tabletop has 0.1 s and front of 192 × 192" in said
