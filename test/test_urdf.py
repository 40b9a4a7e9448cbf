"""The robot model, the kinematics and the vendor's solver are one robot."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import arx5_interface
import numpy as np
import pytest

from actdistill_ros.control import kinematics, limits
from actdistill_ros.control.pose import from_rotation_vector

FILE = Path(__file__).parents[1] / "urdf" / "x5.urdf"
ROBOT = ElementTree.parse(FILE).getroot()
JOINTS = {joint.get("name"): joint for joint in ROBOT.iter("joint")}
RANDOM_Q = np.random.default_rng(0).uniform(limits.JOINT_MIN, limits.JOINT_MAX, (200, 6))


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def pose_of(link: str, q: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Position and rotation of a link in `base_link`, straight from the file."""
    position, rotation = np.zeros(3), np.eye(3)
    for joint in reversed(chain_to(link)):
        origin = joint.find("origin")
        roll, pitch, yaw = numbers(origin.get("rpy"))
        position = position + rotation @ numbers(origin.get("xyz"))
        for axis, angle in (((0, 0, 1), yaw), ((0, 1, 0), pitch), ((1, 0, 0), roll)):
            rotation = rotation @ from_rotation_vector(angle * np.array(axis, dtype=float))
        value = q.get(joint.get("name"), 0.0)
        if joint.get("type") == "revolute":
            rotation = rotation @ from_rotation_vector(value * numbers(joint.find("axis").get("xyz")))
        elif joint.get("type") == "prismatic":
            position = position + rotation @ (value * numbers(joint.find("axis").get("xyz")))
    return position, rotation


def chain_to(link: str) -> list:
    joints = []
    while link != "base_link":
        joint = next(j for j in JOINTS.values() if j.find("child").get("link") == link)
        joints.append(joint)
        link = joint.find("parent").get("link")
    return joints


def test_the_model_and_the_kinematics_put_every_link_in_the_same_place():
    for q in RANDOM_Q[:20]:
        values = dict(zip(limits.JOINT_NAMES, q))
        rotations, origins = kinematics.link_frames(q)
        for i in range(6):
            position, rotation = pose_of(f"link{i + 1}", values)
            np.testing.assert_allclose(position, origins[i], atol=1e-12)
            np.testing.assert_allclose(rotation, rotations[i], atol=1e-12)
        tcp = kinematics.forward(q)
        position, rotation = pose_of("eef_link", values)
        np.testing.assert_allclose(position, tcp.position_m, atol=1e-12)
        np.testing.assert_allclose(rotation, tcp.rotation, atol=1e-12)


@pytest.fixture(scope="module")
def vendor():
    config = arx5_interface.RobotConfigFactory.get_instance().get_config("X5")
    solver = arx5_interface.Arx5Solver(
        config.urdf_path, 6, config.joint_pos_min, config.joint_pos_max, config.base_link_name, config.eef_link_name,
        config.gravity_vector,
    )  # fmt: skip
    return config, solver


def test_the_kinematics_and_the_vendors_solver_agree(vendor):
    for q in RANDOM_Q:
        theirs, ours = vendor[1].forward_kinematics(q), kinematics.forward(q)
        np.testing.assert_allclose(ours.position_m, theirs[:3], atol=1e-9)
        roll, pitch, yaw = theirs[3:]
        rotation = np.eye(3)
        for axis, angle in (((0, 0, 1), yaw), ((0, 1, 0), pitch), ((1, 0, 0), roll)):
            rotation = rotation @ from_rotation_vector(angle * np.array(axis, dtype=float))
        np.testing.assert_allclose(ours.rotation, rotation, atol=1e-6)


def test_limits_are_those_of_the_vendors_configuration(vendor):
    config = vendor[0]
    for ours, theirs in (
        (limits.JOINT_MIN, config.joint_pos_min),
        (limits.JOINT_MAX, config.joint_pos_max),
        (limits.JOINT_VELOCITY_MAX, config.joint_vel_max),
        (limits.JOINT_TORQUE_MAX, config.joint_torque_max),
        (limits.GRIPPER_WIDTH_M, config.gripper_width),
        (limits.GRIPPER_SPEED_M_S, config.gripper_vel_max),
    ):
        np.testing.assert_allclose(ours, theirs)


def test_limits_of_the_model_are_the_drivers():
    for i, name in enumerate(limits.JOINT_NAMES):
        limit = {key: float(value) for key, value in JOINTS[name].find("limit").attrib.items()}
        assert limit == {
            "lower": limits.JOINT_MIN[i],
            "upper": limits.JOINT_MAX[i],
            "velocity": limits.JOINT_VELOCITY_MAX[i],
            "effort": limits.JOINT_TORQUE_MAX[i],
        }
    for name in ("finger1", "finger2"):
        limit = JOINTS[name].find("limit").attrib
        assert (float(limit["lower"]), float(limit["upper"])) == (0.0, limits.GRIPPER_WIDTH_M / 2)
        assert float(limit["velocity"]) == limits.GRIPPER_SPEED_M_S / 2


def test_masses_are_the_vendors_with_the_fingers_taken_out_of_link6(vendor):
    theirs = ElementTree.parse(vendor[0].urdf_path).getroot()
    expected = {link.get("name"): float(link.find("inertial/mass").get("value")) for link in theirs.iter("link")}
    ours = {link.get("name"): link for link in ROBOT.iter("link")}
    mass = {
        name: float(link.find("inertial/mass").get("value")) for name, link in ours.items() if link.find("inertial")
    }
    assert sum(mass.values()) == pytest.approx(sum(expected.values()))
    for name in ("base_link", "link1", "link2", "link3", "link4", "link5"):
        assert mass[name] == expected[name]
        for key in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz"):
            value = (
                next(link for link in theirs.iter("link") if link.get("name") == name).find("inertial/inertia").get(key)
            )
            assert float(ours[name].find("inertial/inertia").get(key)) == float(value)


def test_no_part_of_the_model_needs_a_mesh_file():
    assert not list(ROBOT.iter("mesh"))
    assert all(link.find("visual") is not None for link in ROBOT.iter("link") if link.get("name") != "eef_link")


def test_open_fingers_are_as_far_apart_as_the_jaw_is_wide():
    at = [pose_of(f"{name}_link", {name: limits.GRIPPER_WIDTH_M / 2})[0] for name in ("finger1", "finger2")]
    assert np.linalg.norm(at[0] - at[1]) == pytest.approx(limits.GRIPPER_WIDTH_M)
