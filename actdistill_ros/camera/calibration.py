"""Reads the calibration file that ROS's camera_calibration writes."""

from __future__ import annotations

from pathlib import Path

import yaml

from actdistill_ros.camera.source import CameraError, Intrinsics


def load(path: Path) -> Intrinsics:
    """Raises CameraError if the file is not there or is no calibration of a pinhole camera."""
    try:
        body = yaml.safe_load(Path(path).read_text())
        matrix = [float(number) for number in body["camera_matrix"]["data"]]
        distortion = tuple(float(number) for number in body.get("distortion_coefficients", {}).get("data", [0.0] * 5))
        if len(matrix) != 9 or len(distortion) != 5:
            raise ValueError(
                f"{len(matrix)} numbers in camera_matrix and {len(distortion)} in distortion, expected 9 and 5"
            )
        size = int(body["image_height"]), int(body["image_width"])
        return Intrinsics(*size, matrix[0], matrix[4], matrix[2], matrix[5], distortion)
    except OSError as error:
        raise CameraError(f"calibration file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CameraError(
            f"{path} is no calibration of a pinhole camera ({error!r}); expected image_width, image_height, "
            "camera_matrix and distortion_coefficients as camera_calibration writes them"
        ) from error
