"""From teacher to student in small: probed, taught, killed, resumed, calibrated, reported; or refused."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from distill_parts import EPISODES, LAYERS, parse, random_data, random_teacher
from safetensors.torch import load_file

from actdistill_ros.contract.contract import ACTION_NAMES, ContractError
from actdistill_ros.contract.seeds import EVALUATION_SEED
from actdistill_ros.data.episode import DataError
from actdistill_ros.distill import command, controls, depth, losses, report
from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError, fit
from actdistill_ros.distill.probing import Probing, ProbingSettings
from actdistill_ros.distill.student import Student, StudentSettings, draw_budgets, straight_through
from actdistill_ros.distill.teacher import Teacher
from actdistill_ros.distill.vla.command import UNSUPPORTED
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.decoder import RoutedDecoder
from actdistill_ros.policy.runtime import PolicyRuntime

HEADS = HeadConfig(bottleneck=8, semantic=6, neighbours=2)
SMALL = StudentSettings(budget=0.75, steps=4, batch=8, groups=4, warmup=2)
STEPS, KILL_AFTER = 30, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return random_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def teacher(folder, data):
    torch.set_num_threads(1)
    return Teacher(folder, [data], "float32")


@pytest.fixture
def probing(teacher):
    return Probing(teacher, HEADS, ProbingSettings(steps=60, batch=16, learning_rate=3e-3))


def student(teacher, probing, settings=SMALL, name="student") -> Student:
    return Student(name, teacher, probing.heads, depth.places([2, 1], LAYERS), settings)


@pytest.fixture(scope="module")
def words(folder, data):
    small = ["--steps", STEPS, "--probe-steps", 4, "--batch", 8, "--threads", 1, "--save-every", 2]
    return ["--teacher", folder, "--data", data, "--budget", 0.75, *small, "--eval-episodes", 0]


@pytest.fixture(scope="module")
def distilled(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("students") / "whole"
    assert command.run(parse(*words, "--out", out, "--controls", "static", "random", "no-graph")) == 0
    return out


# -- the command
def test_the_help_says_what_every_option_is_and_gives_an_example_of_either_teacher_that_is_taken():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    unsaid = [a.dest for a in parser._actions if not a.help]
    assert unsaid == []
    said = {action.dest: action.help for action in parser._actions}
    assert all("ot for published VLAs" in " ".join(said[name].split()) for name in UNSUPPORTED)
    assert "`actdistill dataset import`" in said["data"]
    examples = re.findall(r"^ +actdistill distill (.*)$", parser.format_help(), re.MULTILINE)
    assert [str(parser.parse_args(words.split()).teacher) for words in examples] == [
        "models/tabletop-teacher", "openvla-7b",
    ]  # fmt: skip


# -- gates
def test_a_gate_of_one_runs_a_layer_and_a_gate_of_zero_is_the_plan_that_leaves_it_out():
    torch.manual_seed(0)
    decoder = RoutedDecoder(32, 2, 48, 4).eval()
    tokens, present = torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    plans = torch.tensor([[1.0, 0, 1, 1], [1.0, 1, 0, 1]])
    with torch.no_grad():
        last = decoder.norm(decoder.trace(tokens, present, plans)[-1])
        for row, plan in enumerate(plans.bool().tolist()):
            alone = decoder(tokens[row : row + 1], present[row : row + 1], plan)
            assert torch.allclose(last[row], alone[0], atol=1e-5)


def test_a_layer_that_no_sample_runs_is_not_called():
    decoder = RoutedDecoder(32, 2, 48, 3)
    decoder.layers[1].register_forward_hook(lambda *_: pytest.fail("called"))
    gates = torch.tensor([[1.0, 0, 1], [1.0, 0, 1]])
    trace = decoder.trace(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool), gates)
    assert torch.equal(trace[0], trace[1]) and len(trace) == 3


def test_gates_are_hard_forward_and_soft_backward():
    scores = torch.tensor([[0.3, -0.2, -4.0]], requires_grad=True)
    gates = straight_through(scores, torch.tensor([False, False, True]))
    assert gates.tolist() == [[1.0, 0.0, 1.0]]
    gates.sum().backward()
    soft = scores.detach().sigmoid()
    assert torch.allclose(scores.grad, soft * (1 - soft) * torch.tensor([1.0, 1.0, 0.0]))


def test_half_of_a_batch_has_the_students_budget_and_the_rest_the_whole_range():
    budgets = [draw_budgets(np.random.default_rng(seed), StudentSettings(budget=0.4)) for seed in range(50)]
    assert all((b[:32] == 0.4).all() for b in budgets)
    assert all(len(set(b[start : start + 16].tolist())) == 1 for b in budgets for start in (32, 48))
    others = torch.stack(budgets)[:, 32:]
    assert others.min() < 0.3 and others.max() > 0.95


# -- stage 1
def test_probing_moves_the_heads_and_leaves_the_teacher_as_it_was(teacher, probing, tmp_path):
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    first = probing.update()["probe"]
    fit(probing, tmp_path, 100, say=lambda _: None)
    assert probing.update()["probe"] < first
    assert all(torch.equal(before[k], v) for k, v in teacher.model.state_dict().items())
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_every_layer_has_a_probe_error(probing):
    errors = probing.errors(64)
    assert len(errors) == LAYERS and all(0.5 < e < 3 for e in errors)


# -- depth
def test_layers_are_given_up_from_the_least_missed_on(teacher):
    order = depth.elimination_order(teacher, 32)
    assert sorted(order) == [1, 2]
    plan = torch.ones(32, LAYERS)
    given = teacher.give(
        teacher.batcher.at(np.random.default_rng(0).choice(teacher.samples.training, 32, replace=False))
    )
    costs = {}
    whole = teacher.answer(teacher.trace(given), given)
    for layer in (1, 2):
        less = plan.clone()
        less[:, layer] = 0
        said = teacher.answer(teacher.model.decoder.trace(given.tokens, given.present, less), given)
        costs[layer] = losses.output(said.motion, said.gripper, whole.motion, whole.gripper).item()
    assert order[0] == min(costs, key=costs.get)


def test_places_and_plans_follow_the_order():
    order = [2, 1, 3]
    assert depth.places(order, 5).tolist() == pytest.approx([0.1, 0.7, 0.9, 0.5, 0.3])
    assert depth.static_plan(order, 5, 0.6) == (True, False, False, True, True)
    assert depth.static_plan(order, 5, 0.5) == depth.static_plan(order, 5, 0.6), "rounded up, for the control"
    assert depth.exit_plan(5, 0.6) == (True, True, True, False, False)
    with pytest.raises(DistillError, match="less than the first and the last"):
        depth.layers_within(0.25, 4)


# -- stage 2
def test_an_untrained_student_at_full_budget_answers_as_the_teacher(teacher, probing):
    made = student(teacher, probing).finished(64)
    batch = next(teacher.held_out(8))
    given = teacher.give(batch)
    gates = torch.ones(len(given.tokens), LAYERS)
    with torch.no_grad():
        trace = made.decoder.trace(given.tokens, given.present, gates)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trace, teacher.trace(given), strict=True))


def test_the_student_learns_while_its_front_stays_the_teachers(teacher, probing):
    stage = student(teacher, probing)
    for _ in range(3):
        terms = stage.update()
    assert {"task", "output", "align", "relate", "act", "compute", "layers"} == terms.keys()
    made, taught = stage.model.state_dict(), teacher.model.state_dict()
    changed = {key.split(".")[0] for key in taught if not torch.equal(made[key], taught[key])}
    assert changed == {"decoder", "head", "focus"}
    assert stage.model.router.gate.weight.abs().sum() > 0


def test_a_budget_pulls_the_gates_down(teacher, probing):
    stage = student(teacher, probing, replace(SMALL, budget=0.5, steps=100, new_rate=2e-2))
    stage.model.router.place.data.fill_(0.3)  # nearly everything runs
    shares = [stage.update()["layers"] for _ in range(60)]
    assert shares[0] > 0.85 and np.mean(shares[-10:]) < 0.75


def test_terms_that_are_switched_off_are_not_computed(teacher, probing):
    off = replace(SMALL, streams=controls.TASK_ONLY, output=0.0, plan=(True, False, True, True))
    assert student(teacher, probing, off).update().keys() == {"task", "layers"}


@pytest.mark.parametrize(("batch", "groups"), [(1, 4), (10, 4), (4, 4)])
def test_a_batch_that_cannot_share_budgets_is_refused(batch, groups):
    with pytest.raises(DistillError, match="cannot be split into 4 groups"):
        replace(SMALL, batch=batch, groups=groups).check()


def test_a_fixed_plan_is_kept_at_every_budget_by_the_checkpoint(teacher, probing, tmp_path):
    plan = (True, True, False, False)
    made = student(teacher, probing, replace(SMALL, plan=plan)).finished(64)
    checkpoint.save(tmp_path, made, teacher.contract)
    loaded, _ = checkpoint.load(tmp_path)
    tokens = teacher.give(next(teacher.held_out(8))).tokens
    for budget in (0.25, 0.6, 1.0):
        at, threshold = loaded.router.at(budget)
        scores = loaded.router(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), torch.full((len(tokens),), at))
        assert (((scores > threshold) | loaded.router.always) == torch.tensor(plan)).all()


# -- the loop
def test_a_loss_that_is_no_number_stops_the_run_and_leaves_nothing_loadable(teacher, probing, tmp_path):
    stage = student(teacher, probing)
    stage.model.head[-1].weight.data.fill_(float("nan"))
    with pytest.raises(DistillError, match="loss .* is nan at step 1"):
        fit(stage, tmp_path, 2, say=lambda _: None)
    assert not (tmp_path / "student.pt").exists()


def test_a_run_of_another_teacher_or_other_settings_is_not_resumed(teacher, probing, tmp_path):
    fit(student(teacher, probing), tmp_path, 2, say=lambda _: None)
    with pytest.raises(DistillError, match="learning_rate: 0.0005 there, 0.1 now"):
        fit(student(teacher, probing, replace(SMALL, learning_rate=0.1)), tmp_path, 2)
    teacher.settings["teacher"], kept = "another", teacher.settings["teacher"]
    try:
        with pytest.raises(DistillError, match="teacher: .* there, another now"):
            fit(student(teacher, probing), tmp_path, 2)
    finally:
        teacher.settings["teacher"] = kept


# -- the command
def test_one_command_leaves_a_student_that_loads_runs_and_reports(distilled, capsys):
    names = {path.name for path in distilled.iterdir()}
    assert {"model.safetensors", "config.json", "contract.json", "report.md", "report.json"} <= names
    weights = load_file(distilled / checkpoint.WEIGHTS)
    assert not any("probe" in key or "semantic" in key for key in weights), "only what inference needs"
    runtime = PolicyRuntime.load(distilled)
    assert runtime.budget == 0.75
    body = json.loads((distilled / report.BODY).read_text())
    assert [row["budget"] for row in body["held_out"]][-1] == 1.0
    assert all(r["share"] <= max(r["budget"], 2 / LAYERS) + 1e-6 for r in body["held_out"])
    assert body["commands"][0].startswith("actdistill distill --teacher")


def test_the_printed_command_makes_the_same_run(words, distilled):
    printed = json.loads((distilled / report.BODY).read_text())["commands"][0].split()[2:]
    given = (printed, [*words, "--out", distilled, "--controls", "static", "random", "no-graph"])
    again, first = (command.filled(parse(*one)) for one in given)
    left_out = {"save_every", "work", "dry_run"}
    assert {k: v for k, v in vars(again).items() if k not in left_out} == {
        k: v for k, v in vars(first).items() if k not in left_out
    }


def test_a_run_killed_at_any_moment_ends_with_the_same_weights_and_curve(words, distilled, tmp_path):
    out = tmp_path / "killed"
    work = out.with_name("killed.training")
    call = [sys.executable, "-m", "actdistill_ros.cli", "distill", *map(str, words), "--out", str(out)]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    state, deadline = work / "student.pt", time.monotonic() + 300
    while not (state.exists() and torch.load(state, weights_only=True)["step"] >= KILL_AFTER):
        assert process.poll() is None and time.monotonic() < deadline, "it was to be killed in the middle of stage 2"
    process.kill()
    process.wait()
    assert not (out / checkpoint.WEIGHTS).exists(), "it was to be killed before its end"
    assert command.run(parse(*words, "--out", out)) == 0
    whole, resumed = load_file(distilled / checkpoint.WEIGHTS), load_file(out / checkpoint.WEIGHTS)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    curves = [
        torch.load(w / "student.pt", weights_only=True)["curve"] for w in (distilled.with_name("whole.training"), work)
    ]
    assert curves[0] == curves[1]


def test_a_dry_run_prints_what_it_would_cost_and_writes_nothing(words, tmp_path, capsys):
    assert command.run(parse(*words, "--out", tmp_path / "x", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "memory" in said and "disk" in said and "min" in said
    assert not list(tmp_path.iterdir())


def test_neither_the_teacher_nor_another_checkpoint_is_overwritten(words, folder, distilled, tmp_path):
    with pytest.raises(DistillError, match="is the teacher itself"):
        command.run(parse(*words, "--out", folder))
    with pytest.raises(DistillError, match="holds a finished checkpoint"):
        command.run(parse(*words, "--out", distilled, "--work", tmp_path / "elsewhere"))


def test_a_student_is_not_distilled_again(distilled, data):
    with pytest.raises(DistillError, match="has a router, so it is a student"):
        Teacher(distilled, [data], "float32")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fps": 5}, "frames per second 5, but .* was made for 10"),
        ({"cameras": ("front",)}, "Record it with camera wrist"),
        ({"episodes": 10}, "10 episodes are too few"),
        ({"steps": 4}, r"chunk \(4, 7\), but .* was made for \(8, 7\)"),
    ],
)
def test_data_that_do_not_fit_the_teacher_are_refused(folder, tmp_path, change, reason):
    other = random_data(tmp_path / "other", **change)
    with pytest.raises(DistillError, match=reason):
        Teacher(folder, [other], "float32")


def test_data_of_another_action_space_are_refused(folder, tmp_path):
    other = random_data(tmp_path / "other")
    info = other / "meta" / "info.json"
    info.write_text(info.read_text().replace(f'"{ACTION_NAMES[0]}"', '"elbow"'))
    with pytest.raises(DistillError, match="actions elbow, .* was made for"):
        Teacher(folder, [other], "float32")


def test_evaluation_seeds_are_never_learnt_from(folder, tmp_path):
    last_good, first_bad = (EVALUATION_SEED - back for back in (EPISODES, EPISODES - 1))
    Teacher(folder, [random_data(tmp_path / "good", first_seed=last_good)], "float32")
    with pytest.raises(DataError, match="1 of 40 episodes with evaluation seeds .100000 … 100000."):
        Teacher(folder, [random_data(tmp_path / "bad", first_seed=first_bad)], "float32")


def test_a_batch_larger_than_the_data_is_refused(teacher, probing):
    with pytest.raises(DistillError, match="batch 400 is more than the 234 samples to train on"):
        student(teacher, probing, replace(SMALL, batch=400))


def test_missing_data_and_missing_teachers_are_named(folder, data, tmp_path):
    with pytest.raises(DataError):
        Teacher(folder, [tmp_path / "nothing"], "float32")
    with pytest.raises(ContractError, match="has no config.json"):
        Teacher(tmp_path, [data], "float32")


@pytest.mark.parametrize(
    ("budget", "reason"), [(0.1, "cannot be met; expected 0.25"), (0.3, "less than the first and")]
)
def test_a_budget_that_cannot_be_met_is_refused(words, tmp_path, budget, reason):
    with pytest.raises(DistillError, match=reason):
        command.run(parse(*words, "--out", tmp_path / "x", "--budget", budget))
