"""The package's own papers agree with each other and with the code."""

import ast
import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import actdistill_ros
from actdistill_ros import cli

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import set_up  # noqa: E402
import system_packages  # noqa: E402

KEYS = {"numpy": "python3-numpy", "cv2": "python3-opencv", "yaml": "python3-yaml"}
ROS_FREE = ("contract", "policy", "distill", "control", "data", "trials", "camera", "arm", "sim", "teleop", "suites")
NO_SIMULATOR = ("contract", "policy", "distill", "control")


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def console_scripts():
    lines = settings()["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(map(str.strip, line.split("=", 1)) for line in lines)


def manifest():
    return ElementTree.parse(ROOT / "package.xml").getroot()


def imports(path):
    """Top-level names of the modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def requirement_names(file):
    return {
        line for line in (ROOT / "requirements" / file).read_text().splitlines() if line and not line.startswith("#")
    }


def test_versions_agree():
    assert manifest().findtext("version") == settings()["metadata"]["version"] == actdistill_ros.__version__


def test_every_console_script_leads_to_a_function():
    for name, target in console_scripts().items():
        module, function = target.split(":")
        spec = importlib.util.find_spec(module)
        assert spec, f"{name}: no module {module}"
        functions = {
            node.name for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert function in functions, f"{name}: {module} has no {function}"


def test_every_subcommand_leads_to_a_module_that_takes_arguments_and_runs():
    for name, (module, _) in cli.COMMANDS.items():
        spec = importlib.util.find_spec(module)
        assert spec, f"actdistill {name}: no module {module}"
        functions = {
            node.name for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert {"add_arguments", "run"} <= functions, f"actdistill {name}"


def test_every_ros_module_that_is_imported_is_declared_in_package_xml():
    declared = {element.text for element in manifest() if element.tag in ("depend", "exec_depend")}
    listing = [Path(entry) / "share" for entry in os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)]
    ros = {folder.parent.name for share in listing for folder in share.glob("*/package.xml")} - {"actdistill_ros"}
    ros |= {"launch", "launch_ros", "cv_bridge", "tf2_msgs", "tf2_ros"}
    files = [*ROOT.glob("actdistill_ros/**/*.py"), *ROOT.glob("launch/*.py")]
    used = {KEYS.get(name, name) for file in files for name in imports(file) if name in ros or name in KEYS}
    assert used <= declared, f"add {sorted(used - declared)} to package.xml"


@pytest.mark.parametrize("folder", ROS_FREE)
def test_only_nodes_import_ros(folder):
    for file in (ROOT / "actdistill_ros" / folder).rglob("*.py"):
        assert not {"rclpy", "sensor_msgs", "launch", "launch_ros"} & set(imports(file)), file


@pytest.mark.parametrize("folder", NO_SIMULATOR)
def test_what_runs_on_a_gpu_server_imports_no_simulator(folder):
    for file in (ROOT / "actdistill_ros" / folder).rglob("*.py"):
        assert not {"mujoco", "arx5_interface"} & set(imports(file)), file


def test_no_handler_of_a_signal_waits_for_a_lock_that_the_interrupted_thread_may_hold():
    handling = [file for file in (ROOT / "actdistill_ros").rglob("*.py") if "signal.signal(" in file.read_text()]
    assert len(handling) > 3
    assert not [file.name for file in handling if re.search(r"threading\.(Event|Condition|R?Lock)\(", file.read_text())]


def test_everybody_who_spins_survives_a_message_that_the_middleware_refuses():
    code = {path.name: path.read_text() for path in (ROOT / "actdistill_ros").rglob("*.py")}
    spinners = {name for name, text in code.items() if re.search(r"(executor|rclpy)\.spin", text)}
    assert spinners == {"delivery.py", "image_listener.py"}  # the listener only listens


def test_what_pip_installs_is_what_the_requirements_say():
    assert set(settings()["options"]["install_requires"].split()) == requirement_names("base.txt")


def test_every_requirement_is_pinned():
    pinned = {line.split("==")[0].lower() for line in requirement_names("lock.txt")}
    for file in ("base.txt", "sim.txt", "ros.txt", "test.txt"):
        assert {name.lower() for name in requirement_names(file)} <= pinned, file


def test_every_interface_file_has_been_built():
    from actdistill_ros import action, msg, srv

    for module, folder in ((msg, "msg"), (srv, "srv"), (action, "action")):
        for file in (ROOT / folder).iterdir():
            assert hasattr(module, file.stem), f"{file} is not in the overlay: make setup"


def test_a_sourced_distribution_is_used_if_its_python_is_this_one(monkeypatch, tmp_path):
    (tmp_path / "rclpy.py").touch()
    for name, text in {
        "ROS_DISTRO": "jazzy",
        "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
        "PYTHONPATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, text)
    ros = set_up.find_ros({})
    assert (ros.distro, ros.distribution, ros.prefixes) == ("jazzy", True, ("/opt/ros/jazzy",))


def test_a_sourced_distribution_for_another_python_is_refused_with_a_way_out(monkeypatch, tmp_path):
    (tmp_path / "rclpy.py").write_text("raise ImportError")
    for name, text in {
        "ROS_DISTRO": "jazzy",
        "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
        "PYTHONPATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(set_up.SetupError, match="make setup PYTHON="):
        set_up.find_ros({})


def test_a_distribution_that_was_used_once_is_used_again_without_being_sourced(monkeypatch):
    known = set_up.Ros("jazzy", True, ("/opt/ros/jazzy",), ("/opt/ros/jazzy/lib",), ())
    for name in ("ROS_DISTRO", "AMENT_PREFIX_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert set_up.find_ros({"ros": json.dumps(known.__dict__)}) == known
    assert not set_up.find_ros({}).distribution


def test_the_overlay_of_this_checkout_is_no_distribution(monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{ROOT}/install/actdistill_ros:{ROOT}/.venv")
    assert not set_up.find_ros({}).distribution


def test_missing_system_packages_are_named_in_one_command_for_those_who_are_not_root(monkeypatch):
    monkeypatch.setattr(system_packages, "missing", lambda: ["cmake", "libegl1"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(system_packages.Missing) as refusal:
        system_packages.ensure(lambda *_: None)
    assert str(refusal.value).endswith("sudo apt-get install -y --no-install-recommends cmake libegl1")


def test_the_environment_works_without_sourcing_anything():
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    code = "from actdistill_ros.msg import ArmState; import actdistill_ros.bringup; print(ArmState.HOLD)"
    result = subprocess.run([sys.executable, "-c", code], env=bare, cwd="/", capture_output=True, text=True)
    assert result.stdout == "3\n", result.stderr
