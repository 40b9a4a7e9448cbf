"""`actdistill eval --suite libero_…` around the benchmark: protocol, resuming, ends of processes, report. The
benchmark's place is taken by a stand-in process (libero_stand_in.py); test_libero_real.py runs the benchmark itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from libero_parts import stand_in_environment

from actdistill_ros import cli
from actdistill_ros.suites.libero import environment, episode, protocol
from actdistill_ros.suites.libero.scripted import Scripted
from actdistill_ros.suites.policy import Decision
from actdistill_ros.suites.record import EPISODES
from actdistill_ros.suites.world import WorldError
from actdistill_ros.trials.interval import wilson

SPATIAL = ("--checkpoint", "scripted", "--suite", "libero_spatial")


@pytest.fixture
def place(tmp_path):
    return stand_in_environment(tmp_path / "libero")


@pytest.fixture
def world(place, tmp_path):
    with environment.start(place, "libero_spatial", 32, ("agentview",), tmp_path / "world.log") as world:
        world.build(0, protocol.SIMULATOR_SEED)
        yield world


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run of twelve episodes that nothing disturbed has measured."""
    folder = tmp_path_factory.mktemp("whole")
    _, found = evaluate(stand_in_environment(folder / "libero"), folder / "run", "--episodes", "12")
    return found


def evaluate(place, out, *more):
    """Exit code of the command, and what it measured."""
    file = out.with_suffix(".json")
    code = cli.main(["eval", *SPATIAL, "--libero", str(place), "--out", str(out), "--json", str(file), *more])
    return code, json.loads(file.read_text()) if file.exists() else None


def started(place, out, *more):
    command = [sys.executable, "-m", "actdistill_ros.cli", "eval", *SPATIAL, "--libero", str(place), "--out", str(out)]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def child_of(process):
    """The benchmark's process, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    within(30, lambda: children.read_text().split() or process.poll() is not None)
    return int(children.read_text().split()[0])


class Still:
    """Does nothing, in chunks of eight; notes the instructions that it was given."""

    identity, cameras = "still", ("agentview",)

    def __init__(self):
        self.instructions, self.looks = [], 0

    def begin(self, instruction):
        self.instructions.append(instruction)

    def act(self, look):
        self.looks += 1
        return Decision(np.tile(protocol.still(), (8, 1)))


def test_the_protocols_numbers_are_those_published():
    assert protocol.MAX_STEPS == {
        "libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400,
    }  # fmt: skip
    assert (protocol.TRIALS_PER_TASK, protocol.SETTLING_STEPS, protocol.FRAME_PIXELS) == (50, 10, 256)
    assert (protocol.POLICY_SEED, protocol.SIMULATOR_SEED) == (7, 0)
    assert protocol.still().tolist() == [0, 0, 0, 0, 0, 0, -1]


def test_the_whole_protocol_is_fifty_trials_of_each_task_and_a_short_run_visits_all_tasks():
    whole = protocol.schedule("libero_goal")
    assert len(whole) == 500 and {(e.task, e.trial) for e in whole} == {(t, k) for t in range(10) for k in range(50)}
    assert [(e.task, e.trial) for e in protocol.schedule("libero_goal", 12)] == [(t, 0) for t in range(10)] + [
        (0, 1),
        (1, 1),
    ]
    with pytest.raises(ValueError, match="has 1 … 4500"):
        protocol.schedule("libero_90", 4501)


def test_an_episode_that_nobody_solves_ends_at_the_limit_whatever_the_chunks_are(world):
    policy = Still()
    ended = episode.run(world, policy, "libero_spatial", protocol.Episode(0, 0, 0), None)
    assert (ended.success, ended.steps) == (False, 220)
    assert policy.looks == len(ended.step_ms) == 28 and policy.instructions == ["put bowl 0 on the plate"]


def test_an_episode_ends_with_the_step_that_solves_it(world):
    ended = episode.run(world, Scripted(), "libero_spatial", protocol.Episode(0, 0, 0), None)
    assert ended.success and ended.steps == len(ended.step_ms) < 150


@pytest.mark.parametrize("actions", [np.zeros(7), np.zeros((2, 6)), np.zeros((0, 7)), np.full((1, 7), np.nan)])
def test_actions_that_are_none_never_reach_the_simulator(world, actions):
    policy = Still()
    policy.act = lambda look: Decision(actions)
    with pytest.raises(ValueError, match="expected \\(K, 7\\) finite"):
        episode.run(world, policy, "libero_spatial", protocol.Episode(0, 0, 0), None)


def test_the_report_has_the_rates_of_each_task_and_of_all_with_their_intervals(place, tmp_path, capsys):
    code, found = evaluate(place, tmp_path / "run", "--episodes", "12")
    assert code == 0
    # Trial 1 is of tasks 0 and 1 only, and cannot be done.
    assert found["outcomes"] == [1] * 10 + [0, 0] and found["success_rate"] == 10 / 12
    assert found["ci95"] == list(wilson(10, 12)) and found["episodes"] == 12 and found["seed"] == 7
    assert found["tasks"]["task_0"] | {"number": 0, "success_rate": 0.5, "episodes": 2} == found["tasks"]["task_0"]
    assert found["max_steps"] == 220 and found["benchmark_versions"] == {"stand-in": "1"}
    assert {"budget", "decoder_flops_share", "layers_executed_mean", "decoder_ms", "step_ms", "mean_steps"} <= set(
        found
    )
    shown = capsys.readouterr().out
    assert "10/12" in shown and "put bowl 9 on the plate" in shown and "left" in shown


def test_a_run_killed_at_any_moment_goes_on_and_ends_as_one_that_was_not(place, tmp_path, whole):
    out = tmp_path / "stopped"
    (place / "bin" / "SLOW_S").write_text("0.002")
    process = started(place, out, "--episodes", "12")
    lines = out / EPISODES
    within(60, lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 4)
    process.kill()
    process.communicate()
    kept = lines.read_bytes().count(b"\n")
    assert 4 <= kept < 12
    (place / "bin" / "SLOW_S").unlink()
    code, found = evaluate(place, out, "--episodes", "12")
    assert code == 0 and lines.read_bytes().count(b"\n") == 12
    for key in ("outcomes", "mean_steps", "first_views"):
        assert found[key] == whole[key], key


def test_trials_of_a_task_see_other_furniture(whole):
    pictures = {(v["task"], v["trial"]): v["agentview"]["sha256"] for v in whole["first_views"]}
    assert pictures[0, 0] != pictures[0, 1] and pictures[0, 0] == pictures[5, 0]


def test_more_episodes_go_on_from_those_that_are_there(place, tmp_path, capsys, whole):
    evaluate(place, tmp_path / "run", "--episodes", "2")
    capsys.readouterr()
    _, found = evaluate(place, tmp_path / "run", "--episodes", "11")
    assert "2 of 11 episodes are in" in capsys.readouterr().out
    assert found["first_views"] == whole["first_views"][:11]


def test_a_torn_last_line_costs_its_episode_only(place, tmp_path, whole):
    evaluate(place, tmp_path / "run", "--episodes", "2")
    path = tmp_path / "run" / EPISODES
    path.write_bytes(path.read_bytes()[:-40])
    code, found = evaluate(place, tmp_path / "run", "--episodes", "2")
    assert code == 0 and found["first_views"] == whole["first_views"][:2] and path.read_bytes().count(b"\n") == 2


def test_a_damaged_line_is_named_and_nothing_is_lost(place, tmp_path, capsys):
    evaluate(place, tmp_path / "run", "--episodes", "1")
    path = tmp_path / "run" / EPISODES
    damaged = path.read_bytes().replace(b'"steps"', b'"stops"', 1)
    path.write_bytes(damaged)
    code, _ = evaluate(place, tmp_path / "run", "--episodes", "1")
    assert code == 2 and "line 1 is damaged" in capsys.readouterr().err and path.read_bytes() == damaged


def test_a_folder_of_another_run_is_refused_with_the_difference(place, tmp_path, capsys):
    evaluate(place, tmp_path / "run", "--episodes", "1")
    code, _ = evaluate(place, tmp_path / "run", "--episodes", "1", "--seed", "8")
    assert code == 2 and "seed 7 there, seed 8 here. Give another --out" in capsys.readouterr().err


def test_two_runs_never_write_to_one_folder(place, tmp_path, capsys):
    (place / "bin" / "SLOW_S").write_text("0.05")
    process = started(place, tmp_path / "run", "--episodes", "1")
    child_of(process)
    code, _ = evaluate(place, tmp_path / "run", "--episodes", "1")
    process.kill()
    process.communicate()
    assert code == 2 and "another run writes to" in capsys.readouterr().err


def test_ctrl_c_ends_both_processes_and_says_what_is_kept(place, tmp_path):
    (place / "bin" / "SLOW_S").write_text("0.01")
    process = started(place, tmp_path / "run", "--episodes", "5")
    child = child_of(process)
    lines = tmp_path / "run" / EPISODES
    within(60, lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
    assert not alive(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_benchmark_ends_with_the_command_however_that_ends(place, tmp_path, number):
    (place / "bin" / "SLOW_S").write_text("0.01")
    process = started(place, tmp_path / "run", "--episodes", "5")
    child = child_of(process)
    process.send_signal(number)
    process.communicate(timeout=20)
    within(10, lambda: not alive(child))


def test_a_benchmark_that_dies_is_reported_with_its_last_words(place, tmp_path, capsys):
    (place / "bin" / "DIES").touch()
    code, found = evaluate(place, tmp_path / "run", "--episodes", "1")
    assert code == 2 and found is None
    assert "process has gone" in (errors := capsys.readouterr().err) and "the ground opened" in errors


def test_without_libero_the_command_says_how_to_get_it(tmp_path, capsys):
    code, _ = evaluate(tmp_path / "nothing", tmp_path / "run")
    assert code == 2 and "`make libero` makes it" in capsys.readouterr().err


def test_a_python_without_libero_is_reported_with_its_last_words(tmp_path):
    with pytest.raises(WorldError, match="(?s)has gone.*No module named 'libero'"):
        environment.start(Path(sys.prefix), "libero_spatial", 32, ("agentview",), tmp_path / "log")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episodes", "501"), "libero_spatial has 1 … 500 (10 tasks × 50 trials)"),
        (("--held-out",), "--held-out says nothing about suite libero_spatial"),
        (("--workers", "2"), "--workers says nothing about suite libero_spatial"),
        (("--suite", "libero_goal"), "scripted knows libero_spatial only"),
        (("--suite", "tabletop"), "--out says nothing about suite tabletop"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(place, tmp_path, capsys, words, said):
    code, _ = evaluate(place, tmp_path / "run", *words)
    assert code == 2 and said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_script_of_the_benchmarks_side_imports_nothing_of_ours():
    text = environment.SCRIPT.read_text() + environment.SCRIPT.with_name("wire.py").read_text()
    assert "actdistill_ros" not in text and os.access(environment.SCRIPT, os.R_OK)
