"""Each model's links, shape, limits and description are those of one arm, the one that the vendor's solver knows."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import arx5_interface
import numpy as np
import pytest

from actdistill_ros.arm import frames
from actdistill_ros.control import limits
from actdistill_ros.control.arm_models import MODELS, ArmModel
from actdistill_ros.control.collision import MOVES_AGAINST
from actdistill_ros.control.pose import from_rotation_vector

ROOT = Path(__file__).parents[1]
MESHES = np.load(ROOT / "test" / "data" / "arm_meshes.npz")
RANDOM_Q = np.random.default_rng(0).uniform(limits.JOINT_MIN, limits.JOINT_MAX, (500, 6))
LINKS = ("base_link", "link1", "link2", "link3", "link4", "link5", "link6")
STICKS_OUT_M = 0.006
FINGER_KG = 0.065


class Described:
    """A model beside its robot description and the vendor's configuration and solver of the same name."""

    def __init__(self, arm: ArmModel) -> None:
        self.arm = arm
        self.robot = ElementTree.parse(ROOT / arm.urdf).getroot()
        self.joints = {joint.get("name"): joint for joint in self.robot.iter("joint")}
        self.config = config = arx5_interface.RobotConfigFactory.get_instance().get_config(arm.name)
        self.vendor = ElementTree.parse(config.urdf_path).getroot()
        self.solver = arx5_interface.Arx5Solver(
            config.urdf_path, 6, config.joint_pos_min, config.joint_pos_max, config.base_link_name,
            config.eef_link_name, config.gravity_vector,
        )  # fmt: skip

    def pose_of(self, link: str, q: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Position and rotation of a link in `base_link`, straight from the file."""
        position, rotation = np.zeros(3), np.eye(3)
        for joint in reversed(self._chain_to(link)):
            origin = joint.find("origin")
            position = position + rotation @ numbers(origin.get("xyz"))
            rotation = rotation @ of_rpy(numbers(origin.get("rpy")))
            value = q.get(joint.get("name"), 0.0)
            if joint.get("type") == "revolute":
                rotation = rotation @ from_rotation_vector(value * numbers(joint.find("axis").get("xyz")))
            elif joint.get("type") == "prismatic":
                position = position + rotation @ (value * numbers(joint.find("axis").get("xyz")))
        return position, rotation

    def _chain_to(self, link: str) -> list:
        joints = []
        while link != "base_link":
            joint = next(j for j in self.joints.values() if j.find("child").get("link") == link)
            joints.append(joint)
            link = joint.find("parent").get("link")
        return joints


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def of_rpy(rpy: np.ndarray) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in zip(((0, 0, 1), (0, 1, 0), (1, 0, 0)), reversed(rpy)):
        rotation = rotation @ from_rotation_vector(angle * np.array(axis, dtype=float))
    return rotation


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    return Described(MODELS[request.param])


def test_driver_and_bus_know_the_same_models():
    assert set(MODELS) == set(frames.MODELS)


def test_the_kinematics_and_the_vendors_solver_agree(model):
    for q in RANDOM_Q:
        theirs, ours = model.solver.forward_kinematics(q), model.arm.chain.forward(q)
        np.testing.assert_allclose(ours.position_m, theirs[:3], atol=1e-9)
        np.testing.assert_allclose(ours.rotation, of_rpy(theirs[3:]), atol=1e-6)


def test_the_description_and_the_kinematics_put_every_link_in_the_same_place(model):
    for q in RANDOM_Q[:20]:
        values = dict(zip(limits.JOINT_NAMES, q))
        rotations, origins = model.arm.chain.link_frames(q)
        for i in range(6):
            position, rotation = model.pose_of(f"link{i + 1}", values)
            np.testing.assert_allclose(position, origins[i], atol=1e-12)
            np.testing.assert_allclose(rotation, rotations[i], atol=1e-12)
        tcp = model.arm.chain.forward(q)
        position, rotation = model.pose_of("eef_link", values)
        np.testing.assert_allclose(position, tcp.position_m, atol=1e-12)
        np.testing.assert_allclose(rotation, tcp.rotation, atol=1e-12)


def test_the_models_differ_by_more_than_any_tolerance():
    one, other = (model.chain.forward(model.home_rad) for model in MODELS.values())
    crossed = MODELS["L5"].chain.forward(MODELS["X5"].home_rad)
    assert np.linalg.norm(one.position_m - other.position_m) < 1e-3
    assert np.linalg.norm(one.position_m - crossed.position_m) > 0.003


def test_home_is_the_same_place_for_each_model(model):
    home = model.arm.chain.forward(model.arm.home_rad)
    np.testing.assert_allclose(home.position_m, [0.25, 0.0, 0.10], atol=2e-3)
    np.testing.assert_allclose(home.rotation[:, 0], [0.0, 0.0, -1.0], atol=5e-3)
    assert model.arm.body.clearance(model.arm.home_rad, -0.06).distance_m > 0.05


def test_limits_are_those_of_the_vendors_configuration(model):
    config = model.config
    for ours, theirs in (
        (limits.JOINT_MIN, config.joint_pos_min),
        (limits.JOINT_MAX, config.joint_pos_max),
        (limits.JOINT_VELOCITY_MAX, config.joint_vel_max),
        (limits.JOINT_TORQUE_MAX, config.joint_torque_max),
        (limits.GRIPPER_WIDTH_M, config.gripper_width),
        (limits.GRIPPER_SPEED_M_S, config.gripper_vel_max),
    ):
        np.testing.assert_allclose(ours, theirs)


def test_the_motors_are_those_of_the_vendors_configuration(model):
    motors = frames.MODELS[model.arm.name]
    config = model.config
    assert [motor.id for motor in motors] == [*config.motor_id, config.gripper_motor_id]
    theirs = [*config.motor_type, config.gripper_motor_type]
    assert [motor.kind.name for motor in motors] == [kind.name for kind in theirs]


def test_limits_of_the_description_are_the_drivers(model):
    for i, name in enumerate(limits.JOINT_NAMES):
        limit = {key: float(value) for key, value in model.joints[name].find("limit").attrib.items()}
        assert limit == {
            "lower": limits.JOINT_MIN[i],
            "upper": limits.JOINT_MAX[i],
            "velocity": limits.JOINT_VELOCITY_MAX[i],
            "effort": limits.JOINT_TORQUE_MAX[i],
        }
    for name in ("finger1", "finger2"):
        limit = model.joints[name].find("limit").attrib
        assert (float(limit["lower"]), float(limit["upper"])) == (0.0, limits.GRIPPER_WIDTH_M / 2)
        assert float(limit["velocity"]) == limits.GRIPPER_SPEED_M_S / 2


def test_masses_are_the_vendors_with_the_fingers_taken_out_of_link6(model):
    ours, theirs = (
        {link.get("name"): link.find("inertial") for link in robot.iter("link")}
        for robot in (model.robot, model.vendor)
    )
    for name in LINKS:
        expected = float(theirs[name].find("mass").get("value")) - 2 * FINGER_KG * (name == "link6")
        assert float(ours[name].find("mass").get("value")) == pytest.approx(expected)
        for key in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz"):
            assert float(ours[name].find("inertia").get(key)) == float(theirs[name].find("inertia").get(key))
        np.testing.assert_allclose(*(numbers(link[name].find("origin").get("xyz")) for link in (ours, theirs)))
    for name in ("finger1_link", "finger2_link"):
        assert float(ours[name].find("mass").get("value")) == FINGER_KG


def test_no_part_of_the_description_needs_a_mesh_file(model):
    assert not list(model.robot.iter("mesh"))
    assert all(link.find("visual") is not None for link in model.robot.iter("link") if link.get("name") != "eef_link")


def test_open_fingers_are_as_far_apart_as_the_jaw_is_wide(model):
    at = [model.pose_of(f"{name}_link", {name: limits.GRIPPER_WIDTH_M / 2})[0] for name in ("finger1", "finger2")]
    assert np.linalg.norm(at[0] - at[1]) == pytest.approx(limits.GRIPPER_WIDTH_M)


def test_what_the_description_says_collides_is_what_the_driver_keeps_apart(model):
    described = {link.get("name"): link.findall("collision") for link in model.robot.iter("link")}
    for number, link in enumerate(LINKS):
        # The description's fingers move, so it has theirs for themselves.
        capsules = [c for c in model.arm.body.capsules if c.link == number and c.name != "fingers"]
        balls, cylinders = [], []
        for shape in described[link]:
            at, turn = (numbers(shape.find("origin").get(key)) for key in ("xyz", "rpy"))
            if (ball := shape.find("geometry/sphere")) is not None:
                balls.append((*at, float(ball.get("radius"))))
            else:
                cylinder = shape.find("geometry/cylinder")
                half = of_rpy(turn)[:, 2] * float(cylinder.get("length")) / 2
                cylinders.append((*(at - half), *(at + half), float(cylinder.get("radius"))))
        expected = [(*end, c.radius_m) for c in capsules for end in (c.start, c.end)]
        np.testing.assert_allclose(np.reshape(balls, (-1, 4)), np.reshape(expected, (-1, 4)), atol=1e-6)
        expected = [(*c.start, *c.end, c.radius_m) for c in capsules]
        np.testing.assert_allclose(np.reshape(cylinders, (-1, 7)), np.reshape(expected, (-1, 7)), atol=1e-5)


def test_the_published_meshes_are_inside_the_capsules(model):
    """In any pose: what sticks out of one link's capsules may be covered by a neighbour's."""
    arm = model.arm
    points = [MESHES[f"{arm.name.lower()}_link{i}"].astype(float) for i in range(7)]
    radii = np.array([capsule.radius_m for capsule in arm.body.capsules])
    for q in RANDOM_Q[:20]:
        rotations, origins = arm.chain.link_frames(q)
        frames_of = [(np.eye(3), np.zeros(3)), *zip(rotations, origins)]
        placed = np.concatenate([at + mesh @ turn.T for mesh, (turn, at) in zip(points, frames_of)])
        ends = [(np.array([c.start, c.end]) @ frames_of[c.link][0].T + frames_of[c.link][1]) for c in arm.body.capsules]
        apart = np.array([_to_segment(placed, *end) for end in ends]) - radii[:, None]
        assert apart.min(axis=0).max() < STICKS_OUT_M


def test_parts_that_are_not_kept_apart_are_neighbours_or_the_joint_limits_keep_them_apart(model):
    kept = {frozenset((name, other)) for name, others in MOVES_AGAINST.items() for other in others}
    low, high, rng = limits.JOINT_MIN, limits.JOINT_MAX, np.random.default_rng(5)
    q = rng.uniform(low, high, (2000, 6))
    q = np.where(rng.random(q.shape) < 0.5, np.where(rng.random(q.shape) < 0.5, low, high), q)  # many at the ends
    rotations, origins = model.arm.chain.many_link_frames(q)  # (T, 6, 3, 3), (T, 6, 3)
    for one, other in combinations(model.arm.body.capsules, 2):
        if other.link - one.link < 3 or one.link == 0 or {one.name, other.name} in kept:
            continue
        along = [
            origins[:, None, c.link - 1] + np.linspace(c.start, c.end, 21) @ rotations[:, c.link - 1].swapaxes(-1, -2)
            for c in (one, other)
        ]  # (T, 21, 3) each
        apart = np.linalg.norm(along[0][:, :, None] - along[1][:, None], axis=-1).min() - one.radius_m - other.radius_m
        # Capsules of forearm and flange touch where both wrist joints are at their ends; the meshes are 9 mm apart.
        least = -0.002 if {one.name, other.name} == {"forearm", "flange"} else 0.02
        assert apart > least, (one.name, other.name, apart)


def _to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    way = end - start
    share = np.clip((points - start) @ way / (way @ way), 0.0, 1.0)
    return np.linalg.norm(points - start - share[:, None] * way, axis=1)
