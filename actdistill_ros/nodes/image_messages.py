"""sensor_msgs/Image to RGB pixels and back, whatever the encoding and the row length."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.nodes.stamps import to_stamp

BYTES_PER_PIXEL = {
    "rgb8": 3,
    "bgr8": 3,
    "8UC3": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}
"""Encodings this package reads; 8UC3 is BGR by OpenCV's habit. One byte a channel: `is_bigendian` means nothing."""

_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}

Converter = Callable[[Image], np.ndarray]


def with_numpy(message: Image) -> np.ndarray:
    """Pixels of a message that `to_rgb` has checked; (H, W, 3) uint8 RGB."""
    channels = BYTES_PER_PIXEL[message.encoding]
    used = message.width * channels
    data = np.frombuffer(message.data, np.uint8)
    # The last row may end without its padding.
    rows = np.lib.stride_tricks.as_strided(data, (message.height, used), (message.step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).reshape(message.height, message.width, channels)
    if message.encoding == "rgb8":
        return pixels
    return cv2.cvtColor(pixels, _TO_RGB[message.encoding])


def _cv_bridge() -> Converter | None:
    """The distribution's converter, or None on a machine that has none, or only half of it."""
    try:
        from cv_bridge import CvBridge
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401  its absence shows only at the first conversion
    except (ImportError, AttributeError):  # AttributeError: built for another major version of numpy
        return None
    bridge = CvBridge()
    # 8UC3 names no colour order and newer names are unknown to older bridges.
    names = {"rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2"}
    return lambda message: (
        np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        if message.encoding in names
        else with_numpy(message)
    )


CONVERTERS = {"numpy": with_numpy} | ({"cv_bridge": bridge} if (bridge := _cv_bridge()) else {})
"""The ways to convert on this machine; all give the same pixels."""


def to_rgb(message: Image, convert: Converter | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, C-contiguous, possibly a view of the message's data.

    Raises ValueError if the encoding is unknown, the image is empty or its data is shorter than step × height.
    """
    if message.encoding not in BYTES_PER_PIXEL:
        raise ValueError(
            f"image encoding {message.encoding!r} is not read; expected one of {', '.join(BYTES_PER_PIXEL)}. "
            "Set the camera driver's output encoding."
        )
    used = message.width * BYTES_PER_PIXEL[message.encoding]
    size = f"{message.width} × {message.height} {message.encoding}"
    if not (message.width and message.height):
        raise ValueError(f"image is empty: {size}")
    if message.step < used:
        raise ValueError(f"image {size} has step {message.step}, expected at least {used} bytes a row")
    if BYTES_PER_PIXEL[message.encoding] == 2 and message.width % 2:
        raise ValueError(f"image {size} has an odd width: two pixels share their colour, expected an even one")
    needed = message.step * (message.height - 1) + used
    if len(message.data) < needed:
        raise ValueError(f"image {size} with step {message.step} has {len(message.data)} bytes, expected {needed}")
    return (convert or CONVERTERS.get("cv_bridge", with_numpy))(message)


def image_message(image: np.ndarray, stamp_s: float, frame_id: str) -> Image:
    """(H, W, 3) uint8 RGB to an rgb8 message. Raises ValueError for any other array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.shape} {image.dtype}, expected (height, width, 3) uint8 RGB")
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = to_stamp(stamp_s)
    message.header.frame_id = frame_id
    # An array.array is taken over as it is; numpy would be copied byte by byte (40 ms for 640 × 480).
    message.data = array("B")
    message.data.frombytes(memoryview(np.ascontiguousarray(image)).cast("B"))
    return message


def camera_info_message(intrinsics: Intrinsics, stamp_s: float, frame_id: str) -> CameraInfo:
    """Pinhole model as CameraInfo, without rectification."""
    i = intrinsics
    message = CameraInfo(height=i.height, width=i.width, distortion_model="plumb_bob", d=list(i.distortion))
    message.header.stamp = to_stamp(stamp_s)
    message.header.frame_id = frame_id
    message.k = [i.fx, 0.0, i.cx, 0.0, i.fy, i.cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [i.fx, 0.0, i.cx, 0.0, 0.0, i.fy, i.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def intrinsics_of(message: CameraInfo) -> Intrinsics:
    """Inverse of `camera_info_message`. Raises ValueError if the camera is not calibrated."""
    if not (message.k[0] > 0 and message.k[4] > 0):
        raise ValueError(f"camera_info of {message.header.frame_id!r} has focal length {message.k[0]}: not calibrated")
    distortion = tuple(message.d) if len(message.d) == 5 else (0.0,) * 5
    return Intrinsics(message.height, message.width, message.k[0], message.k[4], message.k[2], message.k[5], distortion)
