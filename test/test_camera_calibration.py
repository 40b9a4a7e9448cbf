"""A calibration file of camera_calibration is read as it stands; anything else is refused in words."""

from __future__ import annotations

import pytest

from actdistill_ros.camera.calibration import load
from actdistill_ros.camera.source import CameraError, Intrinsics

FILE = """
image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [600.5, 0, 320, 0, 601, 240.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0.01, 0]}
"""


def test_a_calibration_file_is_read(tmp_path):
    (tmp_path / "front.yaml").write_text(FILE)
    assert load(tmp_path / "front.yaml") == Intrinsics(
        480, 640, 600.5, 601.0, 320.0, 240.5, (0.1, -0.2, 0.0, 0.01, 0.0)
    )


@pytest.mark.parametrize("text", ["- a list", "image_width: 640", FILE.replace("600.5, ", ""), "{", ""])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "front.yaml").write_text(text)
    with pytest.raises(CameraError, match="no calibration of a pinhole camera"):
        load(tmp_path / "front.yaml")


def test_a_missing_calibration_file_is_named(tmp_path):
    with pytest.raises(CameraError, match="none.yaml cannot be read"):
        load(tmp_path / "none.yaml")
