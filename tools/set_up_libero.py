"""Makes .venv-libero, where LIBERO and the simulator that it needs live apart from everything else; may run any number
of times.

Needs nothing but Python's standard library. A set-up that was interrupted is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import system_packages

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-libero"
REQUIREMENTS = ROOT / "requirements" / "libero.txt"
STAMP = VENV / "actdistill_setup.txt"
ROOM = 4 << 30  # bytes; 2.1 GB stay
PROOF = "from libero.libero import benchmark; from libero.libero.envs import OffScreenRenderEnv"


def say(step: str, text: str) -> None:
    print(f"libero: {step:<12} {text}", flush=True)


def wanted() -> str:
    """What an up-to-date environment has on its stamp."""
    return (
        f"{ROOT} {sys.version_info.major}.{sys.version_info.minor} "
        f"{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}\n"
    )


def run(*command: object) -> None:
    """Raises RuntimeError with what the command printed if it fails."""
    words = [str(word) for word in command]
    # Variables of a sourced ROS distribution or of another environment must not lead this Python to their packages.
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")} | {"MUJOCO_GL": "egl"}
    result = subprocess.run(
        words, check=False, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{result.stdout}\n{' '.join(words)} failed with exit code {result.returncode}.")


def make() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < ROOM:
        raise RuntimeError(f"{free / 1e9:.1f} GB are free in {ROOT}; LIBERO needs {ROOM / 1e9:.1f} GB. Make room.")
    say("environment", f"making {VENV}")
    run(sys.executable, "-m", "venv", "--clear", VENV)
    python = VENV / "bin" / "python"
    say("packages", "installing requirements/libero.txt: a download of about 0.5 GB, 2.1 GB on disk; minutes")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", REQUIREMENTS)
    run(python, "-c", PROOF)


def main() -> int:
    try:
        system_packages.ensure(say)
        if STAMP.is_file() and STAMP.read_text() == wanted():
            say("done", f"{VENV} is there already")
            return 0
        make()
        STAMP.write_text(wanted())
    except (RuntimeError, OSError, system_packages.Missing) as error:
        print(f"libero: {error}", file=sys.stderr)
        return 2
    say("done", "try .venv/bin/actdistill eval --checkpoint scripted --suite libero_spatial --episodes 10")
    return 0


if __name__ == "__main__":
    sys.exit(main())
