"""Homing through the driver node: slow, judged, stoppable, and the gripper keeps what it holds."""

# ruff: noqa: F811

from __future__ import annotations

import numpy as np
import pytest
from actdistill_ros.msg import ArmState
from arm_parts import HOME_Q
from ros_rig import ros  # noqa: F401
from std_srvs.srv import Trigger
from test_arm_driver_node import Robot, motors  # noqa: F401

from actdistill_ros.control.arm_models import X5
from actdistill_ros.nodes.homing import HOME
from actdistill_ros.sim.layout import HOME_TCP_M

forward = X5.chain.forward


@pytest.fixture
def robot(ros, motors, tmp_path):
    motors.q = HOME_Q + np.array([0.2, -0.2, 0.0, 0.1, 0.0, 0.1])
    robot = Robot(ros, tmp_path)
    robot.home = robot.peer.create_client(Trigger, HOME)
    assert robot.home.wait_for_service(timeout_sec=20.0)
    return robot


def call(robot: Robot) -> Trigger.Response:
    future = robot.home.call_async(Trigger.Request())
    robot.ros.until(future.done, "an answer of arm/home")
    return future.result()


def test_home_is_where_tasks_begin():
    np.testing.assert_allclose(forward(X5.home_rad).position_m, HOME_TCP_M, atol=2e-3)


def test_a_holding_arm_goes_home_slowly_and_the_gripper_stays(robot):
    robot.ros.until(lambda: robot.set_mode(ArmState.HOLD).success, "mode HOLD")
    gripper = robot.states[-1].gripper_commanded
    answer = call(robot)
    assert answer.success, answer.message
    state = robot.until_held("the trajectory is done")
    assert any(s.mode == ArmState.TELEOP and s.source == "trajectory" for s in robot.states)
    at = state.tcp_commanded.position
    np.testing.assert_allclose([at.x, at.y, at.z], HOME_TCP_M, atol=3e-3)
    assert state.gripper_commanded == gripper


def test_a_hold_stops_it_on_its_way(robot):
    robot.ros.until(lambda: robot.set_mode(ArmState.HOLD).success, "mode HOLD")
    assert call(robot).success
    robot.until(lambda s: s.source == "trajectory", "motion")
    assert robot.set_mode(ArmState.HOLD).success
    state = robot.until_held("asked to hold")
    assert abs(state.tcp_commanded.position.y) > 0.02


def test_a_limp_arm_is_not_moved(robot):
    answer = call(robot)
    assert not answer.success and "HOLD" in answer.message
