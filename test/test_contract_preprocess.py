"""Pixels and actions are converted once, the same way in training and on the robot."""

from __future__ import annotations

import numpy as np
import pytest

from actdistill_ros.contract.contract import CameraSpec, Statistics
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.preprocess import denormalise, normalise, policy_view, state_vector

STATISTICS = Statistics(
    (-0.02, -0.01, -0.03, -0.1, -0.1, -0.1, 0.0), (0.02, 0.03, 0.01, 0.1, 0.1, 0.1, 1.0), (True,) * 6 + (False,), 9
)


def test_normalising_and_back_is_the_identity_and_leaves_the_gripper_alone():
    actions = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 8, 7))
    assert denormalise(normalise(actions, STATISTICS), STATISTICS) == pytest.approx(actions, abs=1e-12)
    assert np.array_equal(normalise(actions, STATISTICS)[..., 6], actions[..., 6])


def test_quantiles_become_plus_and_minus_one():
    low = normalise(np.array(STATISTICS.q01), STATISTICS)
    high = normalise(np.array(STATISTICS.q99), STATISTICS)
    assert low[:6] == pytest.approx(-1.0) and high[:6] == pytest.approx(1.0)


def test_the_view_is_the_centre_square_in_the_right_colours():
    image = np.zeros((48, 96, 3), np.uint8)
    image[:, 24:72] = (200, 10, 30)
    view = policy_view(image, CameraSpec("front", 16, 48, 96))
    assert view.shape == (16, 16, 3)
    assert (view == (200, 10, 30)).all()


def test_the_state_is_the_commanded_pose_and_the_measured_opening():
    rotation = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    state = state_vector(ArmPose(np.array([0.1, 0.2, 0.3]), rotation), 0.5)
    assert state == pytest.approx([0.1, 0.2, 0.3, 0, 0, -1, 0, 1, 0, 0.5])
