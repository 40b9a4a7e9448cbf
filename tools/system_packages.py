"""Finds what only the system's package manager can give, and installs it as root or names the one command that does."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path


class Missing(RuntimeError):
    """System packages are missing and cannot be installed from here."""


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def has_software_renderer() -> bool:
    """Mesa's drivers, under any of the names that its versions gave them."""
    folders = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64")]
    return any(any(folder.glob(name)) for folder in folders for name in ("dri/*swrast*", "libgallium*"))


def missing() -> list[str]:
    """Names of the Debian and Ubuntu packages that this machine lacks."""
    python = f"python3.{sys.version_info.minor}"
    checks = {
        "cmake": shutil.which("cmake"),
        "make": shutil.which("make"),
        "g++": shutil.which("c++") and shutil.which("cc"),
        f"{python}-venv": importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"),
        f"{python}-dev": (Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        "libegl1": loads("libEGL.so.1"),
        "libegl-mesa0": loads("libEGL_mesa.so.0") or loads("libEGL_nvidia.so.0"),
        "libgl1-mesa-dri": has_software_renderer() or loads("libEGL_nvidia.so.0"),
    }
    return [name for name, found in checks.items() if not found]


def ensure(say: Callable[[str, str], None]) -> None:
    """Install what is missing as root, or raise Missing with the command that does."""
    names = missing()
    if not names:
        say("system", "compiler, cmake, Python headers and EGL are there")
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Missing(
            f"this machine lacks {', '.join(names)}. Install them and run it again:\n    sudo {' '.join(command)}"
        )
    say("system", f"installing {' '.join(names)} with apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-q"], command):
        if subprocess.run(step, env=environment, stdout=subprocess.DEVNULL).returncode:
            raise Missing(f"{' '.join(step)} failed; the reason stands above. Missing: {' '.join(names)}")
    if left := missing():
        raise Missing(
            f"apt-get installed {' '.join(names)}, but {' '.join(left)} cannot be found still. Install it by hand."
        )
