"""Images keep their colours and rows through a message, and a message that cannot be one is refused in words."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.nodes.image_messages import (
    BYTES_PER_PIXEL,
    CONVERTERS,
    camera_info_message,
    image_message,
    intrinsics_of,
    to_rgb,
)
from actdistill_ros.nodes.stamps import capture_seconds, to_seconds, to_stamp

RED_PIXEL_PAIR = {
    "rgb8": [255, 0, 0] * 2,
    "bgr8": [0, 0, 255] * 2,
    "8UC3": [0, 0, 255] * 2,
    "rgba8": [255, 0, 0, 255] * 2,
    "bgra8": [0, 0, 255, 255] * 2,
    "mono8": [76] * 2,
    "yuv422": [90, 82, 240, 82],
    "uyvy": [90, 82, 240, 82],
    "yuv422_yuy2": [82, 90, 82, 240],
    "yuyv": [82, 90, 82, 240],
}
BLACK_PIXEL_PAIR = {
    name: [128, 16] * 2 if "uyvy" in name or name == "yuv422" else [16, 128] * 2 for name in BYTES_PER_PIXEL
}


def message_with_red_patch(encoding: str, padding: int) -> Image:
    """6 × 4 pixels, black but for the right two columns of the last two rows, rows padded with bright bytes."""
    pair = 2 * BYTES_PER_PIXEL[encoding]
    black = BLACK_PIXEL_PAIR[encoding] if BYTES_PER_PIXEL[encoding] == 2 else [0] * pair
    plain, patched = black * 3, black * 2 + RED_PIXEL_PAIR[encoding]
    data = bytes(sum([row + [255] * padding for row in (plain, plain, patched, patched)], []))
    return Image(height=4, width=6, encoding=encoding, step=3 * pair + padding, data=array("B", data))


@pytest.mark.parametrize("convert", CONVERTERS)
@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", BYTES_PER_PIXEL)
def test_a_red_patch_is_red_and_in_its_place_in_every_encoding_and_row_length(encoding, padding, convert):
    image = to_rgb(message_with_red_patch(encoding, padding), CONVERTERS[convert])

    assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    expected = np.zeros((4, 6, 3), int)
    expected[2:, 4:] = (76, 76, 76) if encoding == "mono8" else (255, 0, 0)
    assert np.abs(image.astype(int) - expected).max() <= 3


def test_big_endian_means_nothing_for_bytes():
    message = message_with_red_patch("bgr8", padding=0)
    message.is_bigendian = 1
    assert tuple(to_rgb(message)[3, 5]) == (255, 0, 0)


def test_the_last_row_may_come_without_its_padding():
    message = message_with_red_patch("rgb8", padding=7)
    message.data = message.data[:-7]
    assert tuple(to_rgb(message)[3, 5]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "bayer_rggb8"}, "'bayer_rggb8' is not read; expected one of rgb8, bgr8"),
        ({"data": array("B", bytes(71))}, "has 71 bytes, expected 72"),
        ({"step": 17}, "has step 17, expected at least 18 bytes a row"),
        ({"height": 0}, "image is empty"),
        ({"encoding": "yuv422", "width": 5}, "odd width"),
    ],
)
def test_a_message_that_is_no_image_is_refused_in_words(change, words):
    message = message_with_red_patch("rgb8", padding=0)
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(ValueError, match=words):
        to_rgb(message)


def test_an_image_survives_the_way_through_a_message():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = image_message(image[:, ::-1], stamp_s=12.5, frame_id="front_optical_frame")

    assert (message.height, message.width, message.step, message.encoding) == (5, 7, 21, "rgb8")
    assert message.header.frame_id == "front_optical_frame" and to_seconds(message.header.stamp) == 12.5
    np.testing.assert_array_equal(to_rgb(message), image[:, ::-1])


def test_a_message_takes_the_pixels_over_without_visiting_each_byte():
    assert type(image_message(np.zeros((2, 2, 3), np.uint8), 1.0, "").data) is array


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 4), np.uint8)]
)
def test_only_rgb_bytes_become_a_message(image):
    with pytest.raises(ValueError, match="expected .height, width, 3. uint8 RGB"):
        image_message(image, 1.0, "")


def test_intrinsics_survive_the_way_through_camera_info():
    intrinsics = Intrinsics(480, 640, 600.0, 610.0, 319.5, 239.5, (0.1, -0.2, 0.0, 0.01, 0.0))
    assert intrinsics_of(camera_info_message(intrinsics, 1.0, "front")) == intrinsics


def test_an_uncalibrated_camera_is_not_taken_for_a_pinhole():
    with pytest.raises(ValueError, match="not calibrated"):
        intrinsics_of(camera_info_message(Intrinsics(480, 640, 0.0, 0.0, 0.0, 0.0), 1.0, "front"))


def test_stamps_keep_the_capture_time_to_the_microsecond():
    assert to_seconds(to_stamp(1_790_000_000.123456)) == pytest.approx(1_790_000_000.123456, abs=5e-7)
    assert to_stamp(1.9999999999) == Time(sec=2)


@pytest.mark.parametrize(("stamp", "words"), [(Time(), "stamp zero"), (Time(sec=11), "1.000 s in the future")])
def test_a_stamp_that_cannot_be_a_capture_time_is_refused(stamp, words):
    with pytest.raises(ValueError, match=f"frame of front .*{words}"):
        capture_seconds(stamp, now_s=10.0, what="frame of front")
    assert capture_seconds(Time(sec=9), now_s=10.0, what="frame of front") == 9.0
