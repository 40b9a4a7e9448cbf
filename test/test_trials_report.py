"""Reports: keys that stay, rates with intervals, and an interrupted run that goes on."""

import json

import pytest

from actdistill_ros.trials import report
from actdistill_ros.trials.interval import wilson
from actdistill_ros.trials.protocol import Result, TrialsError, plan

SETTINGS = {"checkpoint": "models/a", "suite": "tabletop"}
TRIALS = plan("models/a", ("lift", "bowl"), 4, 100)


def result(trial, verdict: str) -> Result:
    return Result(trial.checkpoint, trial.task, trial.seed, "do it", verdict, "timeout", "saw it", 2.0, 8)


VERDICTS = ("success", "failure", "success", "unjudged")
RESULTS = [result(trial, verdict) for trial, verdict in zip(TRIALS, VERDICTS, strict=True)]


def test_the_file_has_the_keys_that_stay(tmp_path):
    path = tmp_path / "new" / "out.json"
    report.write(path, RESULTS, 4, SETTINGS)
    body = json.loads(path.read_text())
    assert {"checkpoint", "task", "seed", "verdict", "reason", "seconds", "steps"} <= set(body["trials"][0])
    assert body["success_rate"] == pytest.approx(2 / 3) and body["ci95"] == list(wilson(2, 3))
    assert body["tasks"]["lift"]["success_rate"] == 1.0 and body["tasks"]["lift"]["ci95"] == list(wilson(2, 2))
    assert body["tasks"]["bowl"] | {"judged": 1, "successes": 0, "success_rate": 0.0} == body["tasks"]["bowl"]
    assert body["device"] and body["threads"] >= 1 and "numpy" in body["versions"]
    assert list(path.parent.iterdir()) == [path]


def test_the_table_has_a_line_per_task_and_one_for_all():
    lines = report.table(RESULTS).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "lift", "bowl", "all"]
    assert lines[1].split()[1:4] == ["2/2", "100", "%"] and lines[3].split()[1:3] == ["2/3", "67"]
    assert "34 % … 100 %" in lines[1]


def test_nothing_judged_is_no_division_by_zero():
    assert report.summary([])["success_rate"] is None
    assert "0/0" in report.table([RESULTS[3]])


def test_an_interrupted_run_goes_on_after_what_it_has(tmp_path):
    path = tmp_path / "out.json"
    report.write(path, [RESULTS[2], RESULTS[0]], 4, SETTINGS)
    assert report.done(path, TRIALS, SETTINGS, resume=True) == [RESULTS[0], RESULTS[2]]
    with pytest.raises(TrialsError, match="has 2 of 4 trials; --resume goes on"):
        report.done(path, TRIALS, SETTINGS, resume=False)


def test_a_finished_run_starts_over_unless_asked_to_resume(tmp_path):
    path = tmp_path / "out.json"
    report.write(path, RESULTS, 4, SETTINGS)
    assert report.done(path, TRIALS, SETTINGS, resume=False) == []
    assert report.done(path, TRIALS, SETTINGS, resume=True) == RESULTS
    assert report.done(tmp_path / "none.json", TRIALS, SETTINGS, resume=True) == []


def test_a_report_of_other_trials_is_not_mixed_with_these(tmp_path):
    path = tmp_path / "out.json"
    report.write(path, RESULTS[:2], 4, SETTINGS)
    with pytest.raises(
        TrialsError, match=r"other trials: \{'checkpoint': 'models/a'\} there, \{'checkpoint': 'models/b'\}"
    ):
        report.done(path, TRIALS, {**SETTINGS, "checkpoint": "models/b"}, resume=True)
    with pytest.raises(TrialsError, match="other seeds there"):
        report.done(path, plan("models/a", ("lift", "bowl"), 4, 500), SETTINGS, resume=True)
    path.write_text("[]")
    with pytest.raises(TrialsError, match="is no report of trials"):
        report.done(path, TRIALS, SETTINGS, resume=True)
