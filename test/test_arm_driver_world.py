"""The driver node drives the real simulated world, and keeps it safe."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from multiprocessing.connection import Client

import pytest
from arm_parts import SETTINGS, action
from ros_rig import ros  # noqa: F401
from test_arm_driver_node import NAN, PATIENT, Robot

from actdistill_ros.msg import ArmState
from actdistill_ros.sim import protocol


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    command = [
        sys.executable,
        "-m",
        "actdistill_ros.sim.server",
        "--endpoint",
        str(folder),
        "--seed",
        "3",
        "--pixels",
        "16",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "ready"
        yield folder
        process.send_signal(signal.SIGTERM)
        process.wait(5)


@pytest.fixture
def ask(endpoint):
    with Client(protocol.endpoint(endpoint, protocol.WORLD), "AF_UNIX") as connection:

        def request(**body) -> dict:
            protocol.send_json(connection, body)
            return protocol.recv_json(connection)

        yield request


@pytest.fixture
def changes():
    return PATIENT


@pytest.fixture
def robot(ros, endpoint, ask, changes):  # noqa: F811
    robot = Robot(ros, endpoint, changes)
    assert "error" not in ask(op="reset", suite="tabletop", task="bowl", seed=3)
    robot.give_to_the_policy()
    yield robot
    ask(op="inject", mute=False)
    robot.set_mode(ArmState.IDLE, reset=True)


def test_actions_move_the_simulated_arm_by_their_deltas(robot):
    start = robot.until(lambda s: s.mode == ArmState.POLICY, "POLICY").tcp_measured.position
    robot.send(*[action(x=0.015, z=-0.01, gripper=0.2)] * 4)
    robot.until(lambda s: s.actions_done == 4, "four actions done")
    there = robot.until(lambda s: abs(s.tcp_measured.position.x - start.x - 0.06) < 0.004, "the arm to arrive")
    assert there.tcp_measured.position.z == pytest.approx(start.z - 0.04, abs=0.005)
    robot.until(lambda s: s.gripper_measured < 0.3, "the gripper to close")


@pytest.mark.parametrize(
    ("bad", "words"),
    [(action(x=NAN), "action 1 is not finite"), (action(x=0.3), "far jump"), (None, "policy silent for")],
)
def test_a_policy_that_fails_leaves_the_simulated_arm_at_rest(robot, bad, words):
    robot.send(*[action(x=0.01)] * 4)
    robot.until(lambda s: s.actions_done >= 1, "the arm to move")
    if bad:
        robot.send(bad)
    held = robot.until_held(words)
    assert robot.stands_still()
    x = pytest.approx(held.tcp_commanded.position.x, abs=0.003)
    robot.until(lambda s: s.tcp_measured.position.x == x, "the arm at rest where it was told to be")


@pytest.mark.parametrize("changes", [{}], ids=["the package's own timeouts"])
def test_motors_that_fall_silent_hold_then_damp_and_can_be_started_again(robot, ask):
    robot.send(*[action(x=0.005)] * 8)
    ask(op="inject", mute=True)
    robot.until_held("motor feedback is")
    state = robot.until(lambda s: s.mode == ArmState.DAMPING, "DAMPING")
    told = re.match(r"held for (\d+\.\d) s with a fault: motor feedback is", state.reason)
    assert told and float(told[1]) >= SETTINGS.hold_to_damping_s
    ask(op="inject", mute=False)
    robot.until(lambda s: not s.faults, "the fault to be gone")
    robot.give_to_the_policy()


def test_a_faulty_motor_is_named(robot, ask):
    ask(op="inject", motor="joint2", fault=10)
    assert robot.until_held("joint2: over-current").faults == [
        "joint2: over-current; free the joint from what blocks it"
    ]
    ask(op="inject", motor="joint2", fault=0)
    robot.until(lambda s: not s.faults, "the fault to be gone")


def test_a_new_scene_is_set_between_idle_and_policy(robot, ask):
    robot.send(*[action(x=0.02)] * 4)
    robot.until(lambda s: s.actions_done == 4, "four actions done")
    assert "under power" in ask(op="reset", suite="tabletop", task="lift", seed=4)["error"]
    assert robot.set_mode(ArmState.IDLE).success
    robot.ros.until(lambda: not ask(op="status")["enabled"], "motors without power")
    assert "error" not in ask(op="reset", suite="tabletop", task="lift", seed=4)
    robot.until(lambda s: abs(s.tcp_measured.position.x - 0.25) < 0.005, "the arm at its start")
    robot.give_to_the_policy()
    first = len(robot.states)
    robot.ros.until(lambda: len(robot.states) > first + 10, "power, until which the command follows the arm")
    assert robot.stands_still() and robot.states[-1].tcp_commanded.position.x == pytest.approx(0.25, abs=0.005)
