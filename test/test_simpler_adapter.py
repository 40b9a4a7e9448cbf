"""SIMPLER's rules between a policy and its robots, on observations and actions made by hand; the benchmark itself does
not run here (docs/benchmarks.md)."""

import numpy as np
import pytest

from actdistill_ros.contract.action_spaces.known import of_statistics
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.rotation import from_rotation_vector
from actdistill_ros.suites.simpler import protocol, view
from actdistill_ros.suites.simpler.protocol import GOOGLE_ROBOT, ROBOTS, WIDOWX, Actions


def product(opening, move=(0.01, -0.02, 0.03), turn=(0.0, 0.0, 0.0)):
    return np.array([*move, *turn, opening])


def pushes(openings, **settings):
    actions = Actions(GOOGLE_ROBOT, **settings)
    return [float(actions(product(opening))[6]) for opening in openings]


def test_the_numbers_are_those_of_the_published_scripts():
    assert (WIDOWX.control_hz, WIDOWX.physics_hz, GOOGLE_ROBOT.control_hz, GOOGLE_ROBOT.physics_hz) == (5, 500, 3, 513)
    assert [(task.steps, task.episodes) for task in WIDOWX.tasks] == [(120, 24)] * 4
    assert [task.steps for task in GOOGLE_ROBOT.tasks] == [80, 80] + [113] * 6 + [200]
    assert [task.instruction for task in GOOGLE_ROBOT.tasks][2:4] == ["open top drawer", "open middle drawer"]
    assert {name: robot.statistics_key for name, robot in ROBOTS.items()} == {
        "widowx": "bridge_orig", "google_robot": "fractal20220817_data",
    }  # fmt: skip


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=ROBOTS)
def test_angles_of_a_checkpoint_reach_the_robot_as_one_rotation_vector(robot):
    said = np.array([[0.01, 0.0, 0.0, 0.3, -0.2, 0.5, 1.0]])  # roll, pitch, yaw about fixed axes
    sent = Actions(robot)(of_statistics(robot.statistics_key).to_product(said)[0])
    x, y, z = (from_rotation_vector(angle * axis) for angle, axis in zip((0.3, -0.2, 0.5), np.eye(3), strict=True))
    assert from_rotation_vector(sent[3:6]) == pytest.approx(z @ y @ x) and sent[:3] == pytest.approx([0.01, 0, 0])
    assert not np.allclose(sent[3:6], [0.3, -0.2, 0.5], atol=0.01)


def test_the_widowx_is_told_closed_or_open_and_nothing_between():
    actions = Actions(WIDOWX)
    assert [actions(product(opening))[6] for opening in (0.0, 0.49, 0.51, 1.0, 0.2)] == [-1, -1, 1, 1, -1]


def test_the_google_robots_push_begins_with_the_change_and_lasts_ten_steps():
    sent = pushes([1.0] * 2 + [0.0] * 14)
    assert sent == [0, 0] + [1] * 10 + [0] * 4


def test_it_opens_by_the_opposite_push():
    assert pushes([0.0, 1.0, 1.0])[1:] == [-1, -1]


def test_changes_while_a_push_lasts_are_looked_at_when_it_is_over():
    sent = pushes([1.0] + [0.0] * 3 + [1.0] * 12)
    assert sent[1:11] == [1] * 10 and sent[11:] == [-1] * 5


def test_openvlas_adapter_holds_a_push_for_fifteen_steps():
    assert pushes([1.0] + [0.0] * 20, sticky=protocol.OPENVLA_STICKY_STEPS) == [0] + [1] * 15 + [0] * 5


def test_another_episode_knows_nothing_of_the_last_ones_gripper():
    actions = Actions(GOOGLE_ROBOT)
    for opening in (1.0, 0.0):
        actions(product(opening))
    actions.reset()
    assert actions(product(0.0))[6] == 0


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan)])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(ContractError):
        Actions(WIDOWX)(action)


def test_frames_of_both_maniskills_are_found():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert (view.frame({"image": {"3rd_view_camera": {"rgb": image}}}, WIDOWX.camera) == image).all()
    assert (view.frame({"sensor_data": {"3rd_view_camera": {"rgb": image[None]}}}, WIDOWX.camera) == image).all()


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"image": {"wrist": {}}}, "no camera overhead_camera; it has wrist"),
        ({}, "it has none"),
        ({"image": {"overhead_camera": {"rgb": np.zeros((2, 4, 6, 3), np.uint8)}}}, "of one environment"),
        ({"image": {"overhead_camera": {"rgb": np.zeros((4, 6, 3))}}}, "came as float64"),
    ],
)
def test_frames_that_are_none_are_refused(observation, said):
    with pytest.raises(ContractError, match=said):
        view.frame(observation, GOOGLE_ROBOT.camera)


def test_a_frame_is_squeezed_into_the_square_by_averaging():
    image = np.zeros((448, 896, 3), dtype=np.uint8)
    image[::2] = 200
    assert view.for_openvla(image).shape == (224, 224, 3) and np.unique(view.for_openvla(image)).tolist() == [100]
