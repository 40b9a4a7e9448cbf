"""Listens to one camera as inference_node does, and tells how many frames came and how old they were."""

from __future__ import annotations

import argparse
import json
import sys
import time

import cv2
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

from actdistill_ros.nodes import qos
from actdistill_ros.nodes.image_messages import to_rgb
from actdistill_ros.nodes.stamps import to_seconds

_WARM_UP_S, _FIRST_S = 1.0, 10.0


class ImageListener:
    """Collects (capture time, age once converted to RGB) of `frames` frame periods after a warm-up."""

    def __init__(self, node: Node, camera: str, frames: int, fps: float) -> None:
        self._window_s = frames / fps
        self._heard: list[tuple[float, float]] = []
        node.create_subscription(Image, f"camera/{camera}/image_raw", self._on_image, qos.NEWEST_IMAGE)

    def _on_image(self, message: Image) -> None:
        to_rgb(message)
        stamp_s = to_seconds(message.header.stamp)
        self._heard.append((stamp_s, time.time() - stamp_s))

    def done(self) -> bool:
        return bool(self._heard) and time.time() > self._heard[0][0] + _WARM_UP_S + self._window_s + 0.5

    def ages_s(self) -> list[float]:
        """Of the frames captured in the window; their number against the frames asked for is what was delivered."""
        if not self._heard:
            return []
        begin = self._heard[0][0] + _WARM_UP_S
        return [age for stamp, age in self._heard if begin <= stamp - 1e-6 < begin + self._window_s]


def main(arguments: list[str] | None = None) -> int:
    """Prints one line of JSON: ages_s, rmw."""
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camera", default="front")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--fps", type=float, required=True)
    args = parser.parse_args(arguments)
    rclpy.init(args=[])
    node = rclpy.create_node("image_listener")
    listener = ImageListener(node, args.camera, args.frames, args.fps)
    # With nothing heard at all, the end is the time in which all should have been.
    until = time.monotonic() + _FIRST_S + _WARM_UP_S + args.frames / args.fps
    while not listener.done() and time.monotonic() < until:
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps({"ages_s": listener.ages_s(), "rmw": rclpy.get_rmw_implementation_identifier()}), flush=True)
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
