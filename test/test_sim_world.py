"""The simulated arm is the X5 of the vendor's numbers, and the same seed is the same world."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_TORQUE_MAX
from actdistill_ros.sim import layout, meshes
from actdistill_ros.sim.env import TabletopEnv
from actdistill_ros.sim.world import Eyes, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_the_tool_is_where_the_kinematics_say_for_any_joints(world):
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform(JOINT_MIN, JOINT_MAX)
        world.set_joints(q, 0.5)
        world.settle()
        expected = X5.chain.forward(q)
        assert world.tcp.position_m == pytest.approx(expected.position_m, abs=1e-9)
        assert world.tcp.rotation == pytest.approx(expected.rotation, abs=1e-9)


def test_joint_and_torque_limits_of_the_model_are_those_of_the_arm(world):
    for i in range(6):
        joint = world.model.joint(f"joint{i + 1}")
        assert joint.range == pytest.approx([JOINT_MIN[i], JOINT_MAX[i]])
        assert world.model.actuator_forcerange[i] == pytest.approx([-JOINT_TORQUE_MAX[i], JOINT_TORQUE_MAX[i]])


def test_a_damped_arm_stays_where_it_is_left_and_a_commanded_one_goes_where_it_is_told():
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "lift", 0)
    before, target = env.world.q, env.world.q + 0.1
    env.world.damp(True)
    env.world.command(target, 1.0)
    env.world.step(0.5)
    assert env.world.q == pytest.approx(before, abs=0.01)
    env.world.damp(False)
    env.world.step(1.0)
    assert env.world.q == pytest.approx(target, abs=0.01)


def test_the_same_seed_gives_the_same_pictures_and_another_seed_does_not():
    first, second = TabletopEnv(), TabletopEnv()
    a, b = first.reset("tabletop-hard", "stack", 5), second.reset("tabletop-hard", "stack", 5)
    other = second.reset("tabletop-hard", "stack", 6)
    first.close()
    second.close()
    assert a.instruction == b.instruction
    for camera in layout.CAMERAS:
        assert np.array_equal(a.images[camera], b.images[camera])
        assert not np.array_equal(a.images[camera], other.images[camera])


def test_a_snapshot_brings_back_the_future_it_was_taken_before():
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "bowl", 1)
    ahead = env.expert_chunk(8)
    done = []
    for _ in range(8):
        done.append(env.expert_action())
        env.act(done[-1])
    assert np.stack(done) == pytest.approx(ahead, abs=1e-9)


def test_both_cameras_see_every_block_from_home():
    env = TabletopEnv(pixels=None)
    env.reset("tabletop", "push", 3)
    eyes = Eyes(env.world.model, 96)
    seen = eyes.see(env.world.data, "front").reshape(-1, 3).astype(int)
    eyes.close()
    colours = {"red": (0, 1, 2), "green": (1, 0, 2), "blue": (2, 0, 1)}
    for name, (strong, weak, weaker) in colours.items():
        dominant = (seen[:, strong] > 1.8 * seen[:, weak]) & (seen[:, strong] > 1.8 * seen[:, weaker])
        assert dominant.sum() > 10, f"the {name} block is not in the picture"


@pytest.mark.parametrize("first", ["looks", "staging", "world", "env"])
def test_rendering_is_set_up_whatever_is_imported_first(first):
    code = f"import actdistill_ros.sim.{first}; from mujoco import gl_context; print(gl_context.GLContext.__module__)"
    environment = {name: text for name, text in os.environ.items() if name != "MUJOCO_GL"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "mujoco.egl"


def stl(path: Path) -> None:
    """A tetrahedron of 5 cm as binary STL."""
    corners = 0.05 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = [corners[list(face)] for face in ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2))]
    body = b"".join(np.zeros(3, np.float32).tobytes() + face.tobytes() + bytes(2) for face in faces)
    path.write_bytes(bytes(80) + len(faces).to_bytes(4, "little") + body)


def test_links_with_a_mesh_of_the_user_look_like_it_and_move_as_before(tmp_path, world):
    stl(tmp_path / "Link3.STL")
    found = meshes.find(tmp_path)
    drawn = World(found)
    assert list(found) == ["link3"] and drawn.model.nmesh == 1 and world.model.nmesh == 0
    for one in (drawn, world):
        one.set_joints(np.array([0.3, 1.2, 0.9, -0.4, 0.1, 0.2]), 0.5)
        one.settle()
    np.testing.assert_array_equal(drawn.tcp.position_m, world.tcp.position_m)
    np.testing.assert_array_equal(drawn.model.body_mass, world.model.body_mass)


def test_a_folder_without_meshes_is_refused_with_the_names_that_are_looked_for(tmp_path):
    stl(tmp_path / "arm.stl")
    with pytest.raises(ValueError, match="expected files such as link1.stl"):
        meshes.find(tmp_path)
