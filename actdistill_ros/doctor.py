"""`actdistill doctor`: what this machine has and what it lacks."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable

from actdistill_ros import run_folder, transport
from actdistill_ros.bringup import share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(checks=CHECKS)


def run(args: argparse.Namespace) -> int:
    """One line per check; 1 if any failed."""
    failed = 0
    for name, check in args.checks:
        try:
            mark, text = "ok  ", check()
        except Exception as error:  # a check that cannot run is a finding, whatever it raised
            mark, text, failed = "FAIL", f"{error or type(error).__name__}", 1
        print(f"{mark} {name:<10} {text}")
    return failed


def python() -> str:
    return f"{platform.python_version()} in {sys.prefix}"


def torch() -> str:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.__version__}, {torch.get_num_threads()} threads, {', '.join(devices) or 'no GPU'}"


def egl() -> str:
    ctypes.CDLL("libEGL.so.1")
    return f"libEGL is there, MuJoCo {importlib.metadata.version('mujoco')}"


def ros() -> str:
    from actdistill_ros.nodes import middleware

    tools = "launch tools" if _has("ros2launch") else "no launch tools: use actdistill up"
    return f"{os.environ.get('ROS_DISTRO', 'unknown')} with {middleware.name()}, {tools}"


def overlay() -> str:
    from actdistill_ros import msg

    return f"{msg.ArmState.__name__} from {os.path.dirname(msg.__file__)}"


def files() -> str:
    return f"models and configuration in {share()}"


def runtime() -> str:
    folder = run_folder.path()
    return f"domain {run_folder.domain()}, sockets below {folder.parent}"


def between(buffer: Callable[[], int] = transport.receive_buffer) -> str:
    """Over what the nodes of a graph speak, and whether images are held up."""
    found = transport.variables(share() / "config", buffer=buffer)
    profile = os.path.basename(os.environ.get(transport.PROFILE) or found.get(transport.PROFILE, "its own settings"))
    slow = buffer() < transport.BUFFER_BYTES
    return profile + (f"; a raw VGA frame takes 4 ms longer than it need: {transport.RAISE}" if slow else "")


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("python", python),
    ("torch", torch),
    ("EGL", egl),
    ("ROS", ros),
    ("overlay", overlay),
    ("files", files),
    ("run folder", runtime),
    ("transport", between),
)
