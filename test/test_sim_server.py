"""The simulated world as a process: motors, cameras and a stage hand on sockets."""

from __future__ import annotations

import signal
import subprocess
import sys
from multiprocessing.connection import Client

import numpy as np
import pytest

from actdistill_ros.arm.backend import JointCommand
from actdistill_ros.arm.sim import SimArm
from actdistill_ros.camera.sim import SimCamera
from actdistill_ros.camera.source import CameraError
from actdistill_ros.sim import protocol

COMMAND = [sys.executable, "-m", "actdistill_ros.sim.server"]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    process = subprocess.Popen([*COMMAND, "--endpoint", str(folder), "--seed", "3"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    yield folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0, "SIGTERM must end the world cleanly"
    assert not list(folder.iterdir()), "sockets must not be left behind"


@pytest.fixture
def ask(endpoint):
    with Client(protocol.endpoint(endpoint, protocol.WORLD), "AF_UNIX") as connection:

        def request(**body) -> dict:
            protocol.send_json(connection, body)
            return protocol.recv_json(connection)

        yield request


@pytest.fixture
def arm(endpoint):
    arm = SimArm(endpoint)
    arm.connect()
    yield arm
    arm.close()


def exchange(arm: SimArm, command: JointCommand | None = None, seconds: float = 0.3):
    """Commands (or damping) until the world has answered for a while; each answer paces the next."""
    first = arm.read().stamp_s
    feedback = arm.read()
    while feedback.stamp_s - first < seconds:
        arm.damp() if command is None else arm.send(command)
        feedback = arm.read()
    return feedback


def test_motors_go_where_they_are_told(arm):
    start = arm.read().position_rad
    target = start + np.array([0.1, 0, 0, 0, 0, 0])
    feedback = exchange(arm, JointCommand(target, 1.0), 1.0)
    assert feedback.position_rad == pytest.approx(target, abs=0.01)
    exchange(arm, None)


def test_the_scene_is_not_set_while_the_motors_are_under_power(arm, ask):
    exchange(arm, JointCommand(arm.read().position_rad, 1.0))
    assert "under power" in ask(op="reset", suite="tabletop", task="lift", seed=1)["error"]
    exchange(arm, None)
    answer = ask(op="reset", suite="tabletop", task="lift", seed=1)
    assert answer["task"] == "lift" and answer["instruction"]
    assert ask(op="verdict") == {"success": False, "now": False, "reason": "not achieved so far"}


@pytest.mark.parametrize(
    "body, said",
    [
        ({"op": "dance"}, "known: reset, verdict, status, inject"),
        ({"op": "reset", "suite": "tabletop"}, "malformed request"),
        ({"op": "inject", "motor": "elbow", "fault": 10}, "motors: joint1"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_right(ask, body, said):
    assert said in ask(**body)["error"]


def test_an_injected_fault_is_reported_by_that_motor(arm, ask):
    ask(op="inject", motor="joint2", fault=10)
    faults = exchange(arm).faults
    ask(op="inject", motor="joint2", fault=0)
    assert faults == {"joint2": "over-current"}


def test_a_camera_gives_fresh_frames_until_it_is_unplugged(endpoint, ask):
    camera = SimCamera(endpoint, "front")
    intrinsics = camera.open()
    first, second = camera.read(5.0), camera.read(5.0)
    assert first.image.shape == (intrinsics.height, intrinsics.width, 3)
    assert second.stamp_s > first.stamp_s
    ask(op="inject", camera="front", unplugged=True)
    with pytest.raises(CameraError, match="front"):
        for _ in range(20):
            camera.read(0.5)
    ask(op="inject", camera="front", unplugged=False)
    camera.close()


def test_physics_keep_the_pace_of_the_wall_clock(arm, ask):
    first, start = ask(op="status")["sim_time_s"], arm.read().stamp_s
    feedback = exchange(arm, None, 1.0)
    passed = ask(op="status")["sim_time_s"] - first
    assert passed == pytest.approx(feedback.stamp_s - start, rel=0.3)


def test_a_second_world_in_the_same_folder_is_refused(endpoint):
    second = subprocess.run([*COMMAND, "--endpoint", str(endpoint)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert "another sim_world already serves" in second.stderr


def test_ctrl_c_lets_those_who_use_the_world_go_first(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--endpoint", str(tmp_path), "--pixels", "16"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    arm = SimArm(tmp_path)
    arm.connect()
    process.send_signal(signal.SIGINT)
    exchange(arm, seconds=0.2)
    assert process.poll() is None, "the motors must be there until the driver has let go of them"
    arm.close()
    assert process.wait(5) == 0
