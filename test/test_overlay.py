"""The overlay shows instruction, executed layers and predicted path, each where it belongs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.overlay import HEIGHT, Plan, draw, look_at, plan_of, predicted_path, project
from actdistill_ros.sim import layout

FRONT = look_at(layout.FRONT_POSITION_M, layout.FRONT_LOOK_AT_M)
INTRINSICS = Intrinsics(192, 192, 280.0, 280.0, 95.5, 95.5)
GREY = np.full((192, 192, 3), 100, np.uint8)


def chunk(actions=None, execute: int = 4) -> Chunk:
    moves = np.tile([0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 1.0], (8, 1)) if actions is None else actions
    return Chunk(moves, 0.1, execute, 1.0, "lift the red block", "tiny@1")


def test_the_point_a_camera_looks_at_is_in_the_middle_and_the_axes_go_right_and_down():
    middle, left, up = project(
        layout.FRONT_LOOK_AT_M + np.array([[0.0, 0.0, 0.0], [0.0, 0.05, 0.0], [0.0, 0.0, 0.05]]), INTRINSICS, FRONT
    )
    np.testing.assert_allclose(middle, [95.5, 95.5], atol=1e-9)
    # The front camera looks back at the arm: the base's +y is on its right-hand side.
    assert left[0] > 100 and left[1] == pytest.approx(95.5)
    assert up[1] < 90 and up[0] == pytest.approx(95.5)


def test_a_point_behind_the_camera_has_no_pixel():
    assert np.isnan(project(layout.FRONT_POSITION_M[None] + [[1.0, 0.0, 0.0]], INTRINSICS, FRONT)).all()


def test_a_camera_without_direction_has_no_pose():
    assert look_at(np.zeros(3), np.zeros(3)) is None
    assert look_at(np.zeros(3), np.array([0.0, 0.0, 1.0])) is None


def test_the_predicted_path_adds_the_deltas_in_the_base_whatever_the_wrist_does():
    actions = np.tile([0.01, 0.0, 0.0, 0.0, 0.0, math.pi / 2, 1.0], (3, 1))
    path = predicted_path(ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), chunk(actions))
    np.testing.assert_allclose(path, [[0.3 + 0.01 * k, 0.0, 0.1] for k in range(4)], atol=1e-12)


@pytest.fixture
def plan() -> Plan:
    start = ArmPose(layout.FRONT_LOOK_AT_M.copy(), layout.GRIPPER_DOWN)
    return plan_of(chunk(), start, status="POLICY: asked for", executed=(True, False, True, True), latency_ms=20.0)


def test_the_frame_is_enlarged_by_a_whole_factor_with_an_even_size_and_not_changed(plan):
    frame = GREY.copy()
    image = draw(frame, plan, INTRINSICS, FRONT)
    assert image.dtype == np.uint8 and image.shape[0] % 2 == image.shape[1] % 2 == 0
    assert image.shape[1] == 576 and image.shape[0] > HEIGHT
    np.testing.assert_array_equal(frame, GREY)
    assert draw(np.zeros((49, 65, 3), np.uint8), plan, None, None).shape[1] % 2 == 0


def test_the_path_starts_where_the_tcp_is_and_its_executed_part_differs_from_the_rest(plan):
    image = draw(GREY, plan, INTRINSICS, FRONT)
    pixels = (project(plan.path_m, INTRINSICS, FRONT) + 0.5) * 3 - 0.5
    executed, rest = (image[tuple(np.round(pixels[i])[::-1].astype(int))] for i in (2, 7))
    assert tuple(executed) != (100, 100, 100) and tuple(rest) != (100, 100, 100) and tuple(executed) != tuple(rest)
    below = image[: len(GREY) * 3].copy()
    assert (below[350:] == 100).all()  # nothing is drawn away from the path


def test_the_colour_of_the_path_tells_a_closing_gripper(plan):
    at = tuple(np.round((project(plan.path_m, INTRINSICS, FRONT)[1] + 0.5) * 3 - 0.5)[::-1].astype(int))
    closing = replace(plan, gripper=np.zeros(8))
    assert tuple(draw(GREY, plan, INTRINSICS, FRONT)[at]) != tuple(draw(GREY, closing, INTRINSICS, FRONT)[at])


@pytest.mark.parametrize(("intrinsics", "camera"), [(None, FRONT), (INTRINSICS, None)])
def test_without_calibration_or_pose_the_frame_stays_free_of_a_path(plan, intrinsics, camera):
    assert (draw(GREY, plan, intrinsics, camera)[:576] == 100).all()


def test_a_skipped_layer_looks_different_from_an_executed_one(plan):
    all_ran = replace(plan, executed=(True,) * 4)
    ran, skipped = draw(GREY, all_ran, None, None)[576:], draw(GREY, plan, None, None)[576:]
    columns = np.flatnonzero((ran[62:80, :420] != skipped[62:80, :420]).any(axis=(0, 2)))
    width_of_bar = columns.max() - columns.min()
    assert 60 < width_of_bar < 130  # one of four cells


def test_words_that_are_long_or_not_ascii_are_drawn_all_the_same(plan):
    draw(GREY, replace(plan, instruction="lege den Würfel … " * 20, status="ß" * 300), INTRINSICS, FRONT)
