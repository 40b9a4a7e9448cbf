"""Builds canbus.c once per version of it, and says which variables let a process use the emulated bus."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from actdistill_ros.arm.error import ArmError

SOURCE = Path(__file__).with_name("canbus.c")


def environment(folder: Path) -> dict[str, str]:
    """Variables for the one process that is to find its CAN interfaces in `folder`. Raises ArmError."""
    return {"LD_PRELOAD": str(library()), "CANBUS_FOLDER": str(folder)}


def library(cache: Path | None = None) -> Path:
    """The shared object, compiled if this version of the source was not yet. Raises ArmError."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actdistill"
    path = cache / f"canbus-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}-{os.uname().machine}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ArmError("the emulated bus needs a C compiler, found none: sudo apt-get install -y gcc libc6-dev")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".so", delete=False) as file:
            made = Path(file.name)
    except OSError as error:
        raise ArmError(
            f"{cache} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder of yours"
        ) from error
    command = [compiler, "-O2", "-shared", "-fPIC", "-Wall", "-o", str(made), str(SOURCE), "-ldl"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        made.unlink(missing_ok=True)
        raise ArmError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
    made.rename(path)  # two that build at once both end with a whole file
    return path
