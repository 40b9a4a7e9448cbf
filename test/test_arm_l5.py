"""An L5 from the driver's core to its motors: its own numbers at every layer, over the unmodified vendor SDK."""

# ruff: noqa: F811

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import arx5_interface
import numpy as np
import pytest
from arm_parts import SETTINGS
from ros_rig import ros  # noqa: F401
from sdk_parts import START, Bus, holding, l5, until  # noqa: F401
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from actdistill_ros.bench import bus_fuzz
from actdistill_ros.bench.fuzz import Fuzz
from actdistill_ros.control.arm_models import L5, X5
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.trajectory import Trajectory
from actdistill_ros.msg import ArmState
from actdistill_ros.nodes import qos


def test_bad_commands_get_no_command_outside_the_limits_out_of_the_driver():
    found = Fuzz(replace(SETTINGS, model="L5"), seed=3).run(400)
    assert found.violations == [] and found.clearance_m > 0.0 and found.acceleration > 0.5


def test_bad_commands_put_no_frame_outside_the_limits_on_the_bus(tmp_path):
    found = bus_fuzz.run(tmp_path, L5.home_rad, commands=400, seed=2, model="L5")
    assert found["violations"] == [] and found["frames"] > 100


def test_the_vendor_sdk_takes_it_home_inside_its_limits_and_the_driver_knows_where_that_is(l5):
    loop = holding(l5.loop(), l5)
    way_s = float(np.abs(L5.home_rad - START).max()) / 0.5
    until(lambda: loop.follow(Trajectory(L5.home_rad[None], np.array([way_s]))) == "", "a way home")
    until(lambda: loop.state().driver.reason == "the trajectory is done", "home")
    until(lambda: np.abs(loop.state().feedback.position_rad - L5.home_rad).max() < 0.02, "the motors to arrive")
    measured = loop.state().feedback.position_rad
    assert _solver("L5").forward_kinematics(measured)[:3] == pytest.approx(
        loop.state().driver.tcp_measured.position_m, abs=0.003
    )
    assert np.linalg.norm(loop.state().driver.tcp_measured.position_m - X5.chain.forward(measured).position_m) > 0.003
    checker = bus_fuzz.FrameChecker()
    checker.check(l5)
    assert checker.violations == [] and checker.frames > 500
    assert loop.set_mode(Mode.IDLE) == ""
    until(l5.damped, "damping")


def test_the_node_drives_and_describes_the_model_that_it_was_told(ros, tmp_path):
    bus = Bus(tmp_path, "L5", start=L5.home_rad)
    words = [sys.executable, "-m", "actdistill_ros.nodes.arm_driver_node", "--ros-args"]
    for name, text in {"hardware": "sdk_sim", "model": "L5", "sim_endpoint": str(bus.folder)}.items():
        words += ["-p", f"{name}:={text}"]
    node = subprocess.Popen(words, env={**os.environ, "ROS_DOMAIN_ID": str(ros.domain_id)})
    try:
        peer = ros.peer()
        states = ros.hear(peer, ArmState, "arm/state", qos.STATE)
        joints = ros.hear(peer, JointState, "joint_states", qos.STATE)
        descriptions = ros.hear(peer, String, "robot_description", qos.LATCHED)
        ros.until(lambda: states and joints and descriptions, "the driver's state and its description")
        at, q = states[-1].tcp_measured.position, np.array(joints[-1].position[:6])
        # An arm without power drifts: what counts is that joints and TCP are of one model.
        assert [at.x, at.y, at.z] == pytest.approx(L5.chain.forward(q).position_m, abs=0.001)
        assert np.linalg.norm([at.x, at.y, at.z] - X5.chain.forward(q).position_m) > 0.004
        assert '<robot name="l5">' in descriptions[-1].data
    finally:
        node.terminate()
        assert node.wait(10) == 0
        bus.close()


def _solver(model: str) -> arx5_interface.Arx5Solver:
    config = arx5_interface.RobotConfigFactory.get_instance().get_config(model)
    return arx5_interface.Arx5Solver(
        config.urdf_path, 6, config.joint_pos_min, config.joint_pos_max, config.base_link_name, config.eef_link_name,
        config.gravity_vector,
    )  # fmt: skip
