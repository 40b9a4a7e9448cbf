"""LIBERO's place taken by a world of a few lines, in a process of its own as the benchmark is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

STAND_IN = Path(__file__).with_name("libero_stand_in.py")


def stand_in_environment(folder: Path, **settings: object) -> Path:
    """A folder for `--libero` whose Python runs the stand-in, whatever script it is given."""
    binary = folder / "bin"
    binary.mkdir(parents=True)
    script = binary / "stand_in.py"
    script.symlink_to(STAND_IN)
    for name, value in settings.items():
        (binary / name).write_text(str(value))
    python = binary / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    assert shutil.which("sh")
    return folder
