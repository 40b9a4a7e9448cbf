"""`actdistill trials`: a whole run, with film and report, and what a user may get wrong."""

import argparse
import json

import numpy as np
import pytest
from trial_parts import Clock, Judge, Robot

from actdistill_ros.data.video import decode
from actdistill_ros.trials import report, run
from actdistill_ros.trials.protocol import TrialsError, plan
from actdistill_ros.trials.video import Film


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def clock():
    return Clock()


def conduct(trials, clock, results, save=lambda results: None, **changes) -> None:
    robot, judge = Robot(clock), Judge(clock, {"lift": 2.0, "bowl": 3.0})
    run.conduct(trials, robot, judge, 5.0, results, save, **{"clock": clock, "pause": clock.pause, **changes})


def test_every_trial_is_saved_and_told_with_the_time_that_is_left(clock, capsys):
    results, saved = [], []
    conduct(plan("m", ("lift", "push"), 3, 9), clock, results, lambda found: saved.append(len(found)))
    assert saved == [1, 2, 3]
    assert [(each.task, each.seed, each.verdict) for each in results] == [
        ("lift", 9, "success"), ("push", 10, "failure"), ("lift", 11, "success"),
    ]  # fmt: skip
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/3 lift, seed 9] success") and "achieved: “do lift”; about 4 s left" in first
    assert "timeout" in second and "left" not in third


def test_every_result_says_how_fast_the_world_ran(clock):
    results = []
    conduct(plan("m", ("lift",), 1, 9), clock, results, real_time=lambda: 0.97)
    assert results[0].real_time_factor == 0.97


def test_the_film_shows_every_trial_and_its_verdict(clock, tmp_path):
    film = Film(tmp_path / "out.mp4", run.FPS)
    image = np.full((96, 96, 3), 120, np.uint8)
    results = []
    conduct(plan("m", ("lift", "bowl"), 2, 0), clock, results, film=film, picture=lambda: image)
    film.close()
    frames = list(decode(tmp_path / "out.mp4"))
    played_s = sum(each.seconds for each in results)
    assert abs(len(frames) - (played_s + 2) * run.FPS) <= 4
    assert np.abs(frames[-1][-5, 3].astype(int) - (60, 200, 90)).max() < 25


def test_a_graph_that_ends_ends_the_trials_and_keeps_what_is_done(clock):
    results, saved = [], []

    def alive():
        if results:
            raise TrialsError("the graph ended with 1")

    with pytest.raises(TrialsError, match="the graph ended"):
        conduct(plan("m", ("lift",), 3, 0), clock, results, lambda found: saved.append(len(found)), alive=alive)
    assert len(results) == 1 and saved == [1]


@pytest.mark.parametrize(("after_s", "counted"), [(0.0, 0), (1.0, 1)])
def test_an_arm_that_has_an_error_before_a_trial_ends_the_run_and_the_trial_does_not_count(clock, after_s, counted):
    robot = Robot(clock, ends_after_s=after_s, ends_because="arm: ERROR: the SDK process stands still")
    results = []
    try:
        run.conduct(
            plan("m", ("lift",), 1, 0), robot, Judge(clock, {}), 5.0, results, lambda found: None,
            clock=clock, pause=clock.pause,
        )  # fmt: skip
    except TrialsError as error:
        assert "ERROR: the SDK process stands still" in str(error) and "--resume" in str(error)
    assert len(results) == counted, "an error in the middle of a trial is a failure of that trial"


def test_wrong_arguments_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(TrialsError, match="unknown task fly; known: lift, bowl, push, stack"):
        run.run(arguments("--tasks", "lift,fly"))
    with pytest.raises(TrialsError, match="cannot be written"):
        run.run(arguments("--json", str(tmp_path)))
    with pytest.raises(ValueError, match="models/none is no folder"):
        run.run(arguments("--checkpoint", "models/none"))
    with pytest.raises(TrialsError, match="--timeout 0 leaves a trial no time"):
        run.run(arguments("--timeout", "0"))
    with pytest.raises(SystemExit):
        arguments("--suite", "kitchen")


def test_a_complete_report_is_only_shown(tmp_path, capsys):
    words = ("--trials", "2", "--tasks", "lift", "--seed", "5", "--json", str(tmp_path / "out.json"))
    args = arguments(*words, "--resume")
    results = []
    conduct(plan(args.checkpoint, ("lift",), 2, 5), Clock(), results)
    settings = {
        "checkpoint": args.checkpoint,
        "suite": "tabletop",
        "hardware": "sim",
        "judge": "world",
        "seed": 5,
        "timeout_s": 20.0,
        "held_out": False,
    }
    report.write(args.json, results, 2, settings)
    before = args.json.read_text()
    capsys.readouterr()
    assert run.run(args) == 0
    assert "2/2" in capsys.readouterr().out and args.json.read_text() == before
    assert json.loads(before)["seed"] == 5


def test_an_older_film_is_kept(tmp_path, capsys):
    assert run._free(tmp_path / "a.mp4") == tmp_path / "a.mp4"
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a-2.mp4").touch()
    assert run._free(tmp_path / "a.mp4") == tmp_path / "a-3.mp4"
    assert "a-3.mp4" in capsys.readouterr().out
