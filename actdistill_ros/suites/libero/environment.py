"""Where LIBERO's own Python is: its simulator is older than ours, so it lives apart."""

from __future__ import annotations

from pathlib import Path

import actdistill_ros
from actdistill_ros.suites import benchmark
from actdistill_ros.suites.world import World, WorldError

FOLDER = ".venv-libero"
SCRIPT = Path(benchmark.__file__).with_name("libero_world.py")


def python(folder: Path | None = None) -> Path:
    """folder: of the environment; None: beside this checkout's sources or in the current folder. Raises WorldError if
    there is none."""
    source = Path(actdistill_ros.__file__).resolve().parent.parent
    places = [folder] if folder else [Path.cwd() / FOLDER, source / FOLDER]
    for place in places:
        if (found := place / "bin" / "python").is_file():
            return found
    looked = " nor ".join(dict.fromkeys(str(place) for place in places))
    raise WorldError(
        f"LIBERO is not installed: no Python environment at {looked}. `make libero` makes it (a download of about 0.5 "
        "GB, 2.1 GB on disk), or name one with --libero FOLDER."
    )


def start(folder: Path | None, suite: str, pixels: int, cameras: tuple[str, ...], log: Path) -> World:
    """A process with that suite. Raises WorldError if it does not come up."""
    return World(python(folder), SCRIPT, [suite, str(pixels), *cameras], log)
