"""Sets this checkout up: system packages, virtual environment, ROS 2, the colcon overlay; may run any number of times.

Needs nothing but Python's standard library. Each step says in one line what it does or that it has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import system_packages

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "actdistill_setup.json"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"
HOOKS = ("set_up.py", "actdistill_overlay.py", "relocate_ros_wheels.py")
INTERFACES = ("msg", "srv", "action")
INSTALLED = ("actdistill_ros", "launch", "config", "models", "urdf")


class SetupError(RuntimeError):
    """Set-up cannot go on; the text says how to mend it."""


@dataclass(frozen=True)
class Ros:
    """Where ROS 2 comes from; `distribution` is False if it comes from the wheels in requirements/ros.txt."""

    distro: str
    distribution: bool
    prefixes: tuple[str, ...]
    libraries: tuple[str, ...]
    python: tuple[str, ...]


def say(step: str, text: str) -> None:
    print(f"setup: {step:<12} {text}", flush=True)


def outside(entries: str) -> tuple[str, ...]:
    """The folders of a search path that are not part of this checkout."""
    return tuple(entry for entry in entries.split(os.pathsep) if entry and ROOT not in Path(entry).resolve().parents)


def find_ros(stamp: dict[str, str]) -> Ros:
    """The distribution sourced now, else the one that this environment was made with, else the wheels."""
    prefixes = outside(os.environ.get("AMENT_PREFIX_PATH", ""))
    distro = os.environ.get("ROS_DISTRO", "")
    known = remembered(stamp) if stamp else None
    if known and known.distribution and distro in ("", known.distro):
        return known
    if not (distro and prefixes):
        return Ros("kilted", False, (str(VENV),), (str(VENV / "lib"),), ())
    if subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True).returncode:
        raise SetupError(
            f"ROS {distro} is sourced, but {sys.executable} cannot import its rclpy. Use the Python that it was "
            "made for: make setup PYTHON=/usr/bin/python3, or open a shell without ROS to use the wheels."
        )
    libraries, python = (outside(os.environ.get(name, "")) for name in ("LD_LIBRARY_PATH", "PYTHONPATH"))
    return Ros(distro, True, prefixes, libraries, python)


def remembered(stamp: dict[str, str]) -> Ros:
    body = json.loads(stamp["ros"])
    return Ros(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()})


def digest(*parts: object) -> str:
    """One hash over texts and the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def wanted(ros: Ros) -> dict[str, str]:
    """What an up-to-date set-up has on its stamp."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if PYTHON.is_file():
        version = next(VENV.glob("lib/python3.*"), Path(version)).name
    hooks = [ROOT / "tools" / name for name in HOOKS]
    interfaces = sorted(path for folder in INTERFACES for path in (ROOT / folder).iterdir())
    listed = sorted(
        str(path.relative_to(ROOT))
        for folder in INSTALLED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return {
        "root": str(ROOT),
        "ros": json.dumps(ros.__dict__),
        "packages": digest(*sorted(REQUIREMENTS.iterdir()), ROOT / "setup.cfg", *hooks),
        "overlay": digest(ROOT / "CMakeLists.txt", ROOT / "package.xml", ROOT / "setup.cfg", *interfaces, *listed),
        "python": version.removeprefix("python"),
    }


def read_stamp() -> dict[str, str]:
    return json.loads(STAMP.read_text()) if STAMP.is_file() else {}


def write_stamp(stamp: dict[str, str]) -> None:
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run a command; what it prints is shown only if it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SetupError(
            f"{result.stdout}\n{' '.join(words)} failed with exit code {result.returncode}; the reason stands above."
        )


def make_environment(ros: Ros, stamp: dict[str, str], want: dict[str, str]) -> None:
    moved = stamp and (stamp["root"], stamp["ros"]) != (want["root"], want["ros"])
    if PYTHON.is_file() and not moved:
        say("environment", f"{VENV} is there, Python {want['python']}")
        return
    say("environment", f"making {VENV}{', which sees the packages of ROS ' + ros.distro if ros.distribution else ''}")
    for folder in ("build", "install", "log"):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    run(sys.executable, "-m", "venv", "--clear", *(["--system-site-packages"] if ros.distribution else []), VENV)


def constraints(ros: Ros) -> Path:
    """The tested versions; a distribution's own Python packages keep theirs: its libraries are built for them."""
    lock = REQUIREMENTS / "lock.txt"
    if not ros.distribution:
        return lock
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    system = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listing.stdout)}
    lines = []
    for line in lock.read_text().splitlines():
        name = line.split("==")[0].lower().replace("_", "-")
        if name == "numpy" and name in system:
            lines.append(f"numpy=={system[name]}")
        elif name not in system and name != "opencv-python-headless":
            lines.append(line)
    path = VENV / "constraints.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def install_packages(ros: Ros) -> None:
    files = ["base.txt", "sim.txt", "test.txt"] + ([] if ros.distribution else ["ros.txt"])
    say(
        "packages",
        f"installing {', '.join(files)} of requirements/ at the versions of lock.txt; minutes the first time",
    )
    wanted_files = [word for name in files for word in ("-r", REQUIREMENTS / name)]
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", constraints(ros), *wanted_files, "setuptools")
    if not ros.distribution:
        run(PYTHON, ROOT / "tools" / "relocate_ros_wheels.py")
    install_overlay_hook(ros)
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def install_overlay_hook(ros: Ros) -> None:
    """Every Python of the environment finds the overlay and ROS by itself (tools/actdistill_overlay.py)."""
    site = next(VENV.glob("lib/python3.*/site-packages"))
    shutil.copy(ROOT / "tools" / "actdistill_overlay.py", site)
    (site / "actdistill_overlay.pth").write_text("import actdistill_overlay\n")
    known = {
        "ROS_DISTRO": ros.distro,
        "AMENT_PREFIX_PATH": ros.prefixes,
        "LD_LIBRARY_PATH": ros.libraries,
        "PYTHONPATH": ros.python,
    }
    (site / "actdistill_overlay.json").write_text(json.dumps(known, indent=1) + "\n")


def build_overlay(ros: Ros) -> None:
    """colcon build into install/; by hand it is `colcon build --symlink-install` in a shell with the same variables."""
    colcon = shutil.which("colcon", path=f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if colcon is None:
        raise SetupError("colcon is missing. Install it: sudo apt-get install -y python3-colcon-common-extensions")
    say("overlay", "building messages and package into install/ with colcon; a minute the first time")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "_ROS_WHEELS"))}
    env |= {
        "VIRTUAL_ENV": str(VENV),
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ROS_DISTRO": ros.distro,
        "AMENT_PREFIX_PATH": os.pathsep.join(ros.prefixes),
        "CMAKE_PREFIX_PATH": os.pathsep.join(ros.prefixes),
        "LD_LIBRARY_PATH": os.pathsep.join(ros.libraries),
    }
    run(colcon, "build", "--symlink-install", "--packages-select", "actdistill_ros", env=env)


def main() -> int:
    if not ROOT.stat().st_uid == os.geteuid() and os.geteuid() == 0:
        say("warning", f"{ROOT} belongs to another user, and root runs this: what it makes here will belong to root.")
    try:
        system_packages.ensure(say)
        stamp = read_stamp()
        ros = find_ros(stamp)
        say("ros", f"using {'the installed distribution' if ros.distribution else 'the wheels'}: {ros.distro}")
        want = wanted(ros)
        make_environment(ros, stamp, want)
        stamp, want = read_stamp(), wanted(ros)
        if stamp.get("packages") == want["packages"]:
            say("packages", "installed already")
        else:
            install_packages(ros)
            stamp = {key: want[key] for key in ("root", "ros", "python", "packages")}
            write_stamp(stamp)
        if stamp.get("overlay") == want["overlay"]:
            say("overlay", "built already")
        else:
            build_overlay(ros)
            run(PYTHON, "-c", "from actdistill_ros.msg import ArmState")
            write_stamp(stamp | {"overlay": want["overlay"]})
    except (SetupError, system_packages.Missing) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"setup: cannot write here: {error}. The checkout must lie on a disk that can be written.", file=sys.stderr
        )
        return 2
    say("done", "try .venv/bin/actdistill --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
