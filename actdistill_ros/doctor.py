"""`actdistill doctor`: what this machine has and what it lacks."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable

from actdistill_ros import run_folder


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
    from actdistill_ros.bringup import share

    return f"models and configuration in {share()}"


def runtime() -> str:
    folder = run_folder.path()
    return f"domain {run_folder.domain()}, sockets below {folder.parent}"


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
)
