"""The whole graph as a user starts it: world, driver, cameras, policy, monitor, one task, and the way down."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from graph_parts import heard
from policy_parts import INSTRUCTIONS, tiny_checkpoint

from actdistill_ros import run_folder
from actdistill_ros.contract import contract
from actdistill_ros.nodes.trial_client import TrialClient
from actdistill_ros.sim.layout import FRAME_PIXELS
from actdistill_ros.trials.judges import World

NAMESPACE = "/launch_test"
NODES = ("sim_world", "arm_driver_node", "camera_node", "inference_node", "monitor_node")
DOMAIN = 1 + os.getpid() % 100
START_S, TASK_S = 120.0, 60.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights, for cameras as the world has them."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("policy") / "tiny")
    promise = contract.load(folder)
    cameras = tuple(replace(one, source_height=FRAME_PIXELS, source_width=FRAME_PIXELS) for one in promise.cameras)
    replace(promise, cameras=cameras).save(folder)
    return folder


class Up:
    """`actdistill up` as a child; what it says is kept."""

    def __init__(self, checkpoint: Path) -> None:
        words = [f"checkpoint:={checkpoint}", f"namespace:={NAMESPACE}", "task:=lift", "seed:=5"]
        command = [sys.executable, "-m", "actdistill_ros.cli", "up", *words]
        self.process, self.lines, self._reader = heard(command, {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)})

    def alive(self) -> None:
        assert self.process.poll() is None, "".join(self.lines)

    def stop(self, number: int) -> str:
        """Everything it said; fails if it is not over within 5 s, or if anything still holds its output."""
        self.process.send_signal(number)
        self.process.wait(5)
        self._reader.join(5)
        assert not self._reader.is_alive(), "a process of the graph is left and holds its output"
        return "".join(self.lines)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def up(checkpoint):
    up = Up(checkpoint)
    yield up
    up.close()


@pytest.fixture
def robot():
    robot = TrialClient(NAMESPACE, ("policy/overlay",), DOMAIN)
    yield robot
    robot.close()


def test_the_graph_runs_a_task_from_words_to_motion_and_ends_without_a_trace(up, robot):
    robot.wait(START_S, up.alive)
    world = World(run_folder.path(NAMESPACE, {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}), "tabletop", robot.let_go)
    assert any("cancelled" in begun_and_cancelled(robot, world, up) for _ in range(3)), "".join(up.lines)
    assert wait_for(robot.picture, up) is not None
    assert world.decide().verdict in ("success", "failure")
    world.close()
    output = up.stop(signal.SIGINT)
    assert up.process.returncode == 0, output
    assert "Traceback" not in output
    assert not [name for name in NODES if f"{name} did not end" in output]


def begun_and_cancelled(robot: TrialClient, world: World, up: Up) -> str:
    """Why the task ended: because it was cancelled, or a machine that stood still for a moment did not keep up."""
    robot.start(INSTRUCTIONS[0], TASK_S)
    wait_for(lambda: robot.progress()[0] >= 2 or robot.ended(), up)
    if robot.ended() is None:
        assert world.status()["enabled"]
    robot.cancel()
    return wait_for(robot.ended, up).reason


def test_the_bundled_policy_lifts_a_block_that_it_is_told_to_lift(tmp_path):
    """Three tries, for a machine that is too slow to keep up now and then; one is impossible by luck."""
    trials = run_trials(tmp_path, 3)
    assert any(trial["verdict"] == "success" and trial["reason"] == "achieved" for trial in trials), trials


def test_over_the_vendor_sdk_on_the_emulated_bus_the_same_graph_brings_a_task_to_its_verdict(tmp_path):
    """Two tries, as above, and the whole again: a machine that stands still for 0.15 s loses the arm, and no trial
    brings it back. That it succeeds as often as without the SDK is measured by trials, not here."""
    trials = run_trials(tmp_path, 2, "--hardware", "sdk_sim", runs=2)
    assert all(trial["verdict"] in ("success", "failure") for trial in trials), trials
    assert any(trial["reason"] in ("achieved", "timeout") and trial["steps"] > 2 for trial in trials), trials


def run_trials(tmp_path, count: int, *more: str, runs: int = 1) -> list[dict]:
    """Of the first run that came to its end."""
    report = tmp_path / f"report{runs}.json"
    words = ["trials", "--namespace", "bundled_test", "--tasks", "lift", "--trials", str(count), "--seed", "95000"]
    words += more
    ran = subprocess.run(
        [sys.executable, "-m", "actdistill_ros.cli", *words, "--json", str(report)],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if ran.returncode and runs > 1:
        return run_trials(tmp_path, count, *more, runs=runs - 1)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = json.loads(report.read_text())["trials"]
    assert len(trials) == count
    return trials


def wait_for(value, up, timeout_s=30.0):
    """The first value that is not None."""
    tick = threading.Event()
    for _ in range(int(timeout_s / 0.05)):
        if (found := value()) is not None:
            return found
        up.alive()
        tick.wait(0.05)
    pytest.fail(f"waited {timeout_s:g} s; so far:\n{''.join(up.lines)}")
