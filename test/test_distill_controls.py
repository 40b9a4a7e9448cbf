"""What a student is compared with, and what the report says of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_parts import LAYERS, parse, random_data, random_teacher

from actdistill_ros.contract import contract as contracts
from actdistill_ros.distill import command, controls, judge, report
from actdistill_ros.distill.judge import Judged
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.student import StudentSettings
from actdistill_ros.policy import checkpoint
from actdistill_ros.sim.staging import SUITES

ORDER = [2, 1]
ASKED = ("--controls", "static", "random", "no-graph", "--control-budgets", "0.5")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parts")
    small = ["--steps", 4, "--probe-steps", 4, "--batch", 8, "--threads", 1]
    teacher, data = random_teacher(folder / "teacher"), random_data(folder / "set")
    return ["--teacher", teacher, "--data", data, "--budget", 0.75, *small]


@pytest.fixture(scope="module")
def distilled(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("students") / "whole"
    assert command.run(parse(*words, "--out", out, *ASKED, "--eval-episodes", 0)) == 0
    return out


# -- the rivals
def test_controls_are_checkpoints_of_their_own_and_random_needs_none(distilled):
    work = distilled.with_name("whole.training") / "controls"
    assert {path.name for path in work.iterdir()} == {"static", "static-0.5", "no-graph"}
    router = checkpoint.load(work / "static")[0].router
    assert router.always.sum() == 3 and router.shares.unique().tolist() == [0.75]
    assert checkpoint.load(work / "static-0.5")[0].router.always.sum() == 2


def test_a_control_with_fixed_layers_is_trained_for_each_budget_and_one_with_a_router_once():
    made = controls.make(controls.NAMES, ORDER, LAYERS, StudentSettings(budget=0.75), (0.5, 0.75))
    assert len(made) == 2 * len(controls.NAMES), "the student's own budget is not made twice"
    assert list(controls.trainings(made)) == [
        *("static", "early-exit", "no-graph", "no-action", "no-routing"),
        *("static-0.5", "early-exit-0.5", "no-routing-0.5"),
    ]
    by_name = {one.name: one for one in made}
    assert by_name["static"].settings.plan == (True, True, False, True)
    assert by_name["early-exit at 0.5"].settings.plan == (True, True, False, False)
    assert by_name["no-graph at 0.5"].words == ("--budget", "0.5") and by_name["static at 0.5"].words == ()
    assert by_name["random at 0.5"].words == ("--plan", "random", "--budget", "0.5")


def test_recovery_training_has_no_teacher_and_no_routing_has_all_of_it():
    made = controls.make(controls.NAMES, ORDER, LAYERS, StudentSettings(budget=0.75))
    settings = {one.name: one.settings for one in made}
    assert settings["static"].streams == settings["early-exit"].streams == controls.TASK_ONLY
    assert settings["static"].output == 0.0 and settings["no-routing"].output == 1.0
    assert settings["no-action"].streams.beta == 0.0 and settings["no-action"].streams.alpha == 1.0
    assert [one.graph for one in made] == [one.name != "no-graph" for one in made]


@pytest.mark.parametrize("where", ["--control-budgets", "--eval-budgets"])
def test_a_budget_that_nothing_can_keep_to_is_refused_before_anything_is_trained(words, tmp_path, where):
    with pytest.raises(DistillError, match="budget 0.1 cannot be met"):
        command.run(parse(*words, "--out", tmp_path / "out", "--controls", "static", where, 0.1))
    assert not list(tmp_path.iterdir())


# -- who is judged
def test_the_suites_are_those_of_the_simulator():
    assert judge.SUITES == SUITES


def test_a_control_is_judged_beside_the_student_under_the_same_budget(words, tmp_path):
    args = parse(*words, "--out", tmp_path / "out", "--eval-budgets", 0.4)
    made = controls.make(("static", "random"), ORDER, LAYERS, StudentSettings(budget=0.75), (0.5,))
    cases = {case.name: case for case in judge.cases(args, made, tmp_path)}
    assert list(cases)[:4] == ["teacher", "student", "student at 0.4", "student at 0.5"]
    assert cases["static"].rival_of == "student" and cases["random at 0.5"].rival_of == "student at 0.5"
    assert cases["static at 0.5"].folder == tmp_path / "controls" / "static-0.5"
    assert cases["random at 0.5"].folder == args.out


def made_for_the_tabletop(folder: Path, copy: Path) -> Path:
    """The same weights under a contract that names the frames which the simulator has."""
    shutil.copytree(folder, copy)
    contract = contracts.load(copy)
    cameras = tuple(replace(camera, source_height=192, source_width=192) for camera in contract.cameras)
    replace(contract, cameras=cameras).save(copy)
    return copy


def test_judging_runs_the_simulator_and_is_not_repeated_for_the_same_weights(words, distilled, tmp_path, capfd):
    teacher, out = (made_for_the_tabletop(folder, tmp_path / folder.name) for folder in (words[1], distilled))
    args = parse(*words, "--teacher", teacher, "--out", out, "--eval-episodes", 1, "--eval-suites", "tabletop-hard")
    found = judge.all_of(args, [], tmp_path)
    assert [one.name for one in found["tabletop-hard"]] == ["teacher", "student"]
    bodies = [one.body for one in found["tabletop-hard"]]
    assert [(body["suite"], body["seed"], body["budget"]) for body in bodies] == [
        ("tabletop-hard", args.eval_seed, budget) for budget in (1.0, 0.75)
    ]
    assert all(len(body["outcomes"]) == body["episodes"] == 1 for body in bodies)
    capfd.readouterr()
    assert judge.all_of(args, [], tmp_path) == found
    assert "judging" not in capfd.readouterr().out


def test_the_latency_of_the_report_is_measured_side_by_side(words, distilled):
    found = judge.latency(parse(*words, "--out", distilled, "--eval-episodes", 2), seconds=0.5)
    assert found["layers_total"] == LAYERS and 2 <= found["layers_executed"] <= LAYERS
    assert found["decoder_ms_plan"] > 0.0 and found["step_ms_full"] > 0.0


# -- the report
def judged(name: str, outcomes: list[int], share: float, rival_of: str = "") -> Judged:
    body = {
        "success_rate": float(np.mean(outcomes)),
        "ci95": [0.1, 0.9],
        "episodes": len(outcomes),
        "suite": "tabletop",
        "seed": 90_000,
        "outcomes": outcomes,
        "decoder_flops_share": share,
        "layers_executed_mean": share * 4,
        "layer_frequency": [share] * 4,
        "budget": share,
        "phases": {"carry": {"steps": 7, "decoder_share": share}},
        "decoder_ms": {"p50": 4 * share, "p95": 5 * share},
        "step_ms": {"p50": 8.0, "p95": 9.0},
    }
    return Judged(name, "what it is", body, rival_of)


ROWS = [
    judged("teacher", [1] * 100, 1.0),
    judged("student", [1] * 99 + [0], 0.47),
    judged("student at 0.3", [1] * 98 + [0, 0], 0.3),
    judged("student at 0.25", [0] * 10 + [1] * 90, 0.25),
    judged("static at 0.3", [0] * 20 + [1] * 80, 0.5, "student at 0.3"),
]


@pytest.fixture(scope="module")
def written(distilled, words, tmp_path_factory):
    """A report of made-up evaluations in a folder of its own."""
    body = json.loads((distilled / report.BODY).read_text())
    kept = {key: body[key] for key in report.Findings.__dataclass_fields__}
    found = report.Findings(**{**kept, "judged": {"tabletop": ROWS, "tabletop-hard": ROWS[:2]}})
    folder = tmp_path_factory.mktemp("written")
    report.write(found, parse(*words, "--out", distilled), distilled.with_name("whole.training"), folder)
    return folder


def test_the_report_names_the_difference_to_the_teacher_and_the_smallest_budget_that_holds(written):
    said = (written / report.TEXT).read_text()
    assert "| student | what it is | 99.0% | 10% … 90% | -1.0 (-3.0 … +0.0) | 47.0% |" in said
    assert "| carry | 7 | 47.0% |" in said
    assert "within 2 points of the teacher is 0.3 (30.0%" in said


def test_the_report_sets_each_control_against_the_student_under_its_budget(written):
    said = (written / report.TEXT).read_text()
    assert "| student at 0.3 | static at 0.3 | +18.0 (" in said
    body = json.loads((written / report.BODY).read_text())["differences"]["tabletop"]
    assert body["static at 0.3"]["student"]["points"] == pytest.approx(18.0)
    assert "student" not in body["student at 0.3"]


def test_the_report_has_a_table_and_a_picture_for_every_suite(written):
    said = (written / report.TEXT).read_text()
    assert "## Success in the closed loop: tabletop\n" in said
    assert "## Success in the closed loop: tabletop-hard\n" in said
    assert (written / report.PICTURE).stat().st_size > 10_000
