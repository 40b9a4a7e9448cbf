"""Whoever stops the arm, late or in vain, brings no power on and takes it from nobody else."""

# ruff: noqa: F811

from __future__ import annotations

import pytest
from actdistill_ros.msg import ArmState
from arm_parts import action
from ros_rig import ros  # noqa: F401
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from test_arm_driver_node import Robot, motors, robot  # noqa: F401

from actdistill_ros.nodes import qos
from actdistill_ros.nodes.operator_topics import DEADMAN
from actdistill_ros.nodes.stopping import POLICY_STOP, STOP


def ask(robot: Robot, name: str) -> Trigger.Response:
    client = robot.peer.create_client(Trigger, name)
    assert client.wait_for_service(timeout_sec=20.0)
    future = client.call_async(Trigger.Request())
    robot.ros.until(future.done, f"an answer of {name}")
    return future.result()


@pytest.mark.parametrize("name", [STOP, POLICY_STOP])
def test_an_arm_that_the_policy_moves_holds(robot, name):
    robot.send(*[action(x=0.01)] * 8)
    robot.until(lambda s: s.actions_done >= 1, "the arm to move")
    assert ask(robot, name).success
    robot.until_held("asked to hold")
    assert robot.stands_still()


@pytest.mark.parametrize("name", [STOP, POLICY_STOP])
@pytest.mark.parametrize("mode", [ArmState.IDLE, ArmState.ESTOP, ArmState.DAMPING])
def test_an_arm_that_was_let_go_stays_limp(robot, motors, name, mode):
    assert robot.set_mode(mode).success
    robot.ros.until(lambda: motors.enabled == 0, "motors without power")
    answer = ask(robot, name)
    assert not answer.success and answer.message.startswith("nothing to stop: the mode is ")
    first, commands = len(robot.states), len(motors.log)
    robot.ros.until(lambda: len(robot.states) > first + 10, "ten states")
    assert {state.mode for state in robot.states[first:]} == {mode}
    assert not any(enabled for enabled, _ in motors.log[commands:])


def test_a_policy_that_ends_does_not_stop_the_operator_who_took_over(robot):
    switch, held = robot.peer.create_publisher(Bool, DEADMAN, qos.STATE), Bool(data=True)
    robot.ros.connect(switch, robot.node)
    switch.publish(Bool(data=False))
    robot.peer.create_timer(0.03, lambda: switch.publish(held))
    robot.until(lambda s: s.source == "teleop", "teleop")
    assert not ask(robot, POLICY_STOP).success
    first = len(robot.states)
    robot.ros.until(lambda: len(robot.states) > first + 10, "ten states")
    assert {state.mode for state in robot.states[first:]} == {ArmState.TELEOP}
    assert ask(robot, STOP).success
    robot.until_held("asked to hold")
