"""Puts the colcon overlay of this checkout on the path of every Python of its virtual environment.

`make setup` installs this file and `actdistill_overlay.pth` into the environment's site-packages; the interpreter
imports it at start, so that `.venv/bin/actdistill` and `.venv/bin/python` work without sourcing anything. A ROS
distribution that was sourced during set-up is remembered in `actdistill_overlay.json` and joined in the same way.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def extend(name: str, first: list[str]) -> bool:
    """Put `first` before what the search path `name` holds; False if all of it was there already."""
    present = [entry for entry in os.environ.get(name, "").split(os.pathsep) if entry]
    if set(first) <= set(present):
        return False
    os.environ[name] = os.pathsep.join(dict.fromkeys([*first, *present]))
    return True


def activate() -> None:
    """Extend the environment; where libraries were missing, start this command again so that the linker sees them."""
    settings = Path(__file__).with_suffix(".json")
    if not settings.is_file():
        return
    known = json.loads(settings.read_text())
    source = Path(sys.prefix).parent
    overlay = source / "install" / "actdistill_ros"
    packages = overlay / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not packages.is_dir():
        return
    os.environ.setdefault("ROS_DISTRO", known["ROS_DISTRO"])
    extend("AMENT_PREFIX_PATH", [str(overlay), *known["AMENT_PREFIX_PATH"]])
    # The source tree comes first: there the modules are edited; the overlay adds the generated messages.
    paths = [str(source), str(packages), *known["PYTHONPATH"]]
    sys.path.extend(path for path in paths if path not in sys.path)
    if not extend("LD_LIBRARY_PATH", [str(overlay / "lib"), *known["LD_LIBRARY_PATH"]]):
        return
    # The ROS wheels start Python again themselves, once, unless this mark says that they did.
    os.environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    if not any(Path(__file__).parent.glob("ros_wheels_bootstrapper*")):
        os.execve(sys.executable, sys.orig_argv, os.environ)


activate()
