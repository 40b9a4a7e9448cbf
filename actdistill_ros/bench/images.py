"""`actdistill bench images`: share and age of raw camera frames that arrive, from camera_node to a subscriber."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from actdistill_ros import bringup
from actdistill_ros.transport import BUFFER_BYTES, PROFILE, RAISE, RANGE, receive_buffer
from actdistill_ros.trials.report import machine

BAR_SHARE, BAR_P95_MS = 0.99, 10.0


class BenchError(RuntimeError):
    """A process of the bench failed; the text says which and how."""


@dataclass(frozen=True)
class Delivery:
    """ages in ms from capture to RGB pixels in the subscriber; None where nothing arrived."""

    delivered_share: float
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    received: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=300, help="frames to count (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second (default: %(default)s)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="frame size (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    width, height = _size(args.size)
    if args.frames < 1 or not 0 < args.fps <= 1000:
        raise BenchError(
            f"--frames {args.frames} --fps {args.fps}: expected 1 or more frames at up to 1000 per second."
        )
    ours = bringup.middleware({})
    with tempfile.TemporaryDirectory(prefix="actdistill-bench-") as folder:
        video = _write_video(Path(folder) / "noise.avi", width, height)
        shipped, rmw = measure(video, args.frames, args.fps, ours)
        default, _ = measure(video, args.frames, args.fps, {})
    report = {
        **asdict(shipped),
        "profile": Path(ours[PROFILE]).name,
        "default_transports": asdict(default),
        "receive_buffer_bytes": receive_buffer(),
        "frames": args.frames,
        "fps": args.fps,
        "width": width,
        "height": height,
        "load_average": round(os.getloadavg()[0], 2),
        "rmw": rmw,
        "ros_distro": os.environ.get("ROS_DISTRO", ""),
        **machine(),
    }
    _print(report, shipped, default)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(video: Path, frames: int, fps: float, transport: dict[str, str]) -> tuple[Delivery, str]:
    """One run of camera_node and a subscriber in processes of their own; transport: variables of the middleware, empty
    for its defaults on one machine."""
    own = {"ROS_DOMAIN_ID": str(random.randint(100, 200)), RANGE: "LOCALHOST", **transport}
    shipped = bringup.middleware({})
    environment = {name: text for name, text in os.environ.items() if name not in shipped} | own
    listen = [sys.executable, "-m", "actdistill_ros.nodes.image_listener", "--frames", str(frames), "--fps", str(fps)]
    with _camera_node(video, fps, environment):
        try:
            done = subprocess.run(
                listen, env=environment, capture_output=True, text=True, timeout=60 + 2 * frames / fps
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the subscriber did not end within {error.timeout:.0f} s") from error
    if done.returncode:
        raise BenchError(f"the subscriber ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return summarise(np.array(answer["ages_s"]), frames), answer["rmw"]


def summarise(ages_s: np.ndarray, frames: int) -> Delivery:
    if not len(ages_s):
        return Delivery(0.0, None, None, None, 0)
    p50, p95, most = (round(float(value) * 1e3, 3) for value in (*np.percentile(ages_s, (50, 95)), ages_s.max()))
    return Delivery(min(1.0, len(ages_s) / frames), p50, p95, most, len(ages_s))


@contextmanager
def _camera_node(video: Path, fps: float, environment: dict[str, str]) -> Iterator[None]:
    settings = ["cameras:=[front]", "backend:=file", f"front.path:={video}", f"front.fps:={fps}"]
    settings += ["front.width:=0", "front.height:=0"]
    words = [word for setting in settings for word in ("-p", setting)]
    command = [sys.executable, "-m", "actdistill_ros.nodes.camera_node", "--ros-args", *words, "--log-level", "error"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield
        if process.poll() is not None:
            raise BenchError(
                f"camera_node ended with exit code {process.returncode}: {process.stderr.read().strip()[-500:]}"
            )
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def _write_video(path: Path, width: int, height: int) -> Path:
    """A second of smooth noise: the transport does not compress, so what is in it does not matter."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (width, height))
    for _ in range(30):
        small = rng.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
        writer.write(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    writer.release()
    return path


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 16 <= int(width) <= 8192 and 16 <= int(height) <= 8192):
        raise BenchError(f"--size {text} is not WIDTHxHEIGHT in pixels, for example 640x480.")
    return int(width), int(height)


def _print(report: dict, shipped: Delivery, default: Delivery) -> None:
    print(
        f"{report['frames']} raw frames of {report['width']} × {report['height']} at {report['fps']:g} Hz, "
        f"{report['rmw']}"
    )
    print(f"{'':40}{'delivered':>10}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}")
    for name, delivery in ((report["profile"], shipped), ("default transports", default)):
        ages = "".join(
            f"{'-' if v is None else f'{v:.1f}':>9}" for v in (delivery.p50_ms, delivery.p95_ms, delivery.max_ms)
        )
        print(f"{name:40}{delivery.delivered_share:>10.1%}{ages}")
    met = shipped.delivered_share >= BAR_SHARE and (shipped.p95_ms or np.inf) < BAR_P95_MS
    print(f"bar: at least {BAR_SHARE:.0%} delivered, p95 below {BAR_P95_MS:g} ms: {'met' if met else 'MISSED'}")
    if report["receive_buffer_bytes"] < BUFFER_BYTES:
        print(f"frames are sent slowly, since sockets hold {report['receive_buffer_bytes']} bytes: {RAISE}")
    if report["load_average"] > report["threads"]:
        print(
            f"the machine is busy (load {report['load_average']:g} on {report['threads']} threads): "
            "measure again when it is idle"
        )
