"""The description of the node graph: which values it takes, which it refuses, and what it makes of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from vla_parts import deployed, hf_folder  # noqa: F401

from actdistill_ros import bringup, run_folder
from actdistill_ros.arm import can
from actdistill_ros.bringup import plan
from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, ContractError, Statistics
from actdistill_ros.launch_arguments import ARGUMENTS, BringupError, mistyped
from actdistill_ros.nodes.inference_settings import SETTINGS
from actdistill_ros.run_folder import RunFolder, RunFolderError
from actdistill_ros.up import log_folder, values

DOMAIN = 1 + os.getpid() % 100


def nothing_installed(package, executable):
    return None


def everything_installed(package, executable):
    return Path("/opt") / package / executable


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the contract of a policy that sees both simulated cameras."""
    cameras = tuple(CameraSpec(name, 96, 192, 192) for name in ("front", "wrist"))
    statistics = {"tabletop": Statistics((-0.01,) * 7, (0.01,) * 7, (True,) * 6 + (False,), 100)}
    folder = tmp_path / "student"
    folder.mkdir()
    Contract("arx5", cameras, ActionSpace(0.1, 8, 4, 0.02, 0.1), statistics, "tabletop").save(folder)
    return folder


def graph(checkpoint, find=nothing_installed, environment=None, **given):
    values, environment = {"checkpoint": str(checkpoint), **given}, environment if environment is not None else {}
    return plan(values, find, environment, terminal=lambda: "")


def by_name(graph):
    return {node.name: node for node in graph.nodes}


def test_the_world_starts_first_and_the_driver_before_its_masters(checkpoint):
    names = [node.name for node in graph(checkpoint).nodes]
    assert names == ["sim_world", "arm_driver_node", "camera_node", "inference_node", "monitor_node"]


def test_driver_and_camera_node_get_the_folder_in_which_the_world_makes_its_sockets(checkpoint):
    nodes = by_name(graph(checkpoint))
    folder = nodes["sim_world"].arguments[1]
    assert nodes["arm_driver_node"].parameters["sim_endpoint"] == folder
    assert nodes["camera_node"].parameters["sim_endpoint"] == folder


def test_cameras_are_those_of_the_checkpoint_unless_given(checkpoint):
    assert by_name(graph(checkpoint))["camera_node"].parameters["cameras"] == ("front", "wrist")
    assert by_name(graph(checkpoint, cameras="wrist,front"))["camera_node"].parameters["cameras"] == ("wrist", "front")


@pytest.mark.parametrize(
    "given, says",
    [
        ({"hardware": "real", "can": "can77"}, "hardware:=real: no interface can77 here"),
        ({"hardware": "real", "can": "eth0"}, "hardware:=real: interface eth0 is a network card"),
        ({"devices": "/dev/video0"}, "devices:=/dev/video0 names 1 video devices"),
        (
            {"meshes": "/no/such/folder"},
            "meshes:=/no/such/folder: no meshes in /no/such/folder: expected files such as",
        ),
        ({"hardware": "toy"}, "not one of sim, sdk_sim, real"),
        ({"model": "L5"}, "model:=L5: the arm in the simulated world is an X5. hardware:=sdk_sim runs another model"),
        ({"model": "L7"}, "model:=L7 is not one of X5, L5"),
        ({"model": "L5", "hardware": "sdk_sim", "instruction": "lift"}, "instruction:=lift needs cameras, and no sim"),
        ({"namespace": "left arm"}, "not a ROS name"),
        ({"namespace": "/left/"}, "not a ROS name"),
        ({"namespace": "2nd"}, "not a ROS name"),
        ({"cameras": "front"}, "expects cameras front, wrist; this graph has front only. Pass cameras:=front,wrist"),
        ({"cameras": "front,wrist,top"}, "no camera 'top'"),
        ({"cameras": "front,wrist,front"}, "twice"),
        ({"rviz": "true"}, "RViz is not installed"),
        ({"rviz": "yes"}, "not one of false, true"),
        ({"record": "/no/such/folder/a.mp4"}, "not a new .mp4 file"),
        ({"log_level": "loud"}, "not one of debug, info"),
        ({"seed": "-1"}, "not a whole number"),
        ({"device": "gpu"}, "device:=gpu is no device; expected cpu, cuda, or cuda:N"),
        ({"device": "cuda:one"}, "device:=cuda:one is no device"),
        ({"device": ""}, "device:= is no device"),
        ({"teleop": "mind"}, "teleop:=mind is not one of none, keyboard, joy, spacemouse, serial"),
        ({"teleop": "keyboard"}, "needs a terminal, and this was started in none. Run actdistill teleop keyboard"),
        ({"teleop": "spacemouse"}, "teleop:=spacemouse: no SpaceMouse in"),
        ({"teleop": "serial"}, "teleop:=serial needs the port of its device"),
        ({"teleop": "serial", "teleop_port": "/dev/nowhere"}, "teleop_port:=/dev/nowhere is none"),
        ({"teleop": "joy", "teleop_port": "/dev/null"}, "teleop_port:=/dev/null is for teleop:=serial"),
        ({"task": "juggle"}, "not one of lift, bowl"),
        ({"colour": "red"}, "unknown argument 'colour'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_fit(checkpoint, given, says):
    with pytest.raises(BringupError) as refusal:
        graph(checkpoint, **given)
    assert says in str(refusal.value)


def test_the_policy_gets_its_budget_as_a_number(checkpoint):
    assert by_name(graph(checkpoint))["inference_node"].parameters["budget"] == 0.0
    budget = by_name(graph(checkpoint, budget=".35"))["inference_node"].parameters["budget"]
    assert budget == 0.35 and isinstance(
        by_name(graph(checkpoint, budget="1"))["inference_node"].parameters["budget"], float
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_the_policy_gets_its_device_which_the_node_finds_or_refuses(checkpoint, device):
    assert by_name(graph(checkpoint, device=device))["inference_node"].parameters["device"] == device


def test_the_device_is_the_nodes_own_unless_given(checkpoint):
    (setting,) = [setting for setting in SETTINGS if setting.name == "device"]
    assert by_name(graph(checkpoint))["inference_node"].parameters["device"] == setting.default


def test_a_published_model_on_the_cpu_comes_with_a_note_that_names_the_gpu(hf_folder, tmp_path, checkpoint):  # noqa: F811
    published = deployed(hf_folder, tmp_path / "openvla-7b")
    (note,) = [note for note in graph(published).notes if "published model" in note]
    assert "older than 1 s (max_chunk_age_s" in note and "pass device:=cuda" in note
    assert not any("published model" in note for note in graph(published, device="cuda").notes)
    assert not any("published model" in note for note in graph(checkpoint).notes)


def test_a_graph_of_this_packages_own_policy_is_planned_without_torch(checkpoint):
    plan = f"bringup.plan({{'checkpoint': {str(checkpoint)!r}, 'device': 'cuda:1'}}, lambda *_: None, {{}})"
    code = f"import sys; from actdistill_ros import bringup; {plan}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("text", ["half", "1.2", "-0.3", "nan", ""])
def test_a_budget_that_is_no_share_is_refused(checkpoint, text):
    with pytest.raises(BringupError, match="is not a number from 0 to 1"):
        graph(checkpoint, budget=text)


def test_a_checkpoint_that_does_not_exist_is_refused_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(BringupError, match="is no folder, neither here"):
        graph(tmp_path / "nothing")


def test_a_checkpoint_without_a_valid_contract_is_refused(checkpoint):
    body = json.loads((checkpoint / "contract.json").read_text())
    body["statistics"]["tabletop"]["samples"] = 7
    (checkpoint / "contract.json").write_text(json.dumps(body))
    with pytest.raises(ContractError, match="do not match their hash"):
        graph(checkpoint)


class Can:
    """An interface in a given state."""

    def __init__(self, link):
        self._link = link

    def link(self):
        return self._link


def real(checkpoint, link=can.Link(True, can.BITRATE, "error-active", ()), **given):
    values = {"checkpoint": str(checkpoint), "hardware": "real", "devices": "/dev/video0,/dev/video2", **given}
    return plan(values, nothing_installed, {}, bus=lambda name: Can(link))


def test_the_real_arm_has_no_world_and_real_cameras(checkpoint):
    nodes = by_name(real(checkpoint, can="can1"))
    assert list(nodes) == ["arm_driver_node", "camera_node", "inference_node", "monitor_node"]
    assert nodes["arm_driver_node"].parameters["hardware"] == "real"
    assert nodes["arm_driver_node"].parameters["can_interface"] == "can1"
    camera = nodes["camera_node"].parameters
    assert (camera["backend"], camera["front.device"], camera["wrist.device"]) == ("v4l2", "/dev/video0", "/dev/video2")


@pytest.mark.parametrize(
    "given, says",
    [
        ({"link": can.Link(False, can.BITRATE, "stopped", ())}, "hardware:=real: can0 is down: sudo ip link set can0"),
        ({"link": can.Link(True, 500_000, "error-active", ())}, "can0 has bitrate 500000"),
        ({"link": can.Link(True, can.BITRATE, "bus-off", ())}, "can0 is bus-off"),
        ({"devices": "/dev/video0"}, "needs one for each of the cameras front, wrist"),
        ({"devices": ""}, "for example devices:=/dev/video0,/dev/video2"),
    ],
)
def test_a_real_arm_that_cannot_be_reached_is_refused_before_anything_starts(checkpoint, given, says):
    with pytest.raises(BringupError) as refusal:
        real(checkpoint, **given)
    assert says in str(refusal.value)


def test_behind_the_vendor_sdk_the_emulated_bus_hangs_on_the_world_that_started_before_it(checkpoint):
    made = graph(checkpoint, hardware="sdk_sim")
    assert [node.name for node in made.nodes][:3] == ["sim_world", "emulated_bus", "arm_driver_node"]
    nodes = by_name(made)
    assert set(nodes["emulated_bus"].arguments) == {"--folder", "--world", str(made.folder)}
    assert nodes["arm_driver_node"].parameters["hardware"] == "sdk_sim"
    assert nodes["camera_node"].parameters["backend"] == "sim"


def test_another_model_has_no_world_and_is_moved_by_teleop_and_trajectories_on_the_emulated_bus(checkpoint):
    made = graph(checkpoint, everything_installed, hardware="sdk_sim", model="L5", teleop="joy")
    assert [node.name for node in made.nodes] == [
        "emulated_bus", "arm_driver_node", "teleop_node", "joy_node", "robot_state_publisher",
    ]  # fmt: skip
    nodes = by_name(made)
    assert nodes["emulated_bus"].arguments[2:4] == ("--model", "L5")
    assert nodes["arm_driver_node"].parameters["model"] == "L5"
    assert 'name="l5"' in nodes["robot_state_publisher"].parameters["robot_description"]
    assert any("no simulated world has an L5: no cameras, no policy" in note for note in made.notes)


def test_the_driver_and_the_description_are_of_the_model(checkpoint):
    nodes = by_name(graph(checkpoint, everything_installed))
    assert nodes["arm_driver_node"].parameters["model"] == "X5"
    assert 'name="x5"' in nodes["robot_state_publisher"].parameters["robot_description"]


def test_rviz_is_shown_where_it_is_installed_and_may_be_closed(checkpoint):
    node = by_name(graph(checkpoint, everything_installed, rviz="true"))["rviz2"]
    assert not node.essential


def test_the_driver_leaves_the_links_to_robot_state_publisher_where_that_runs(checkpoint):
    assert "publish_tf" not in by_name(graph(checkpoint))["arm_driver_node"].parameters
    nodes = by_name(graph(checkpoint, everything_installed))
    assert nodes["arm_driver_node"].parameters["publish_tf"] is False


def test_no_teleop_is_started_unless_asked_for(checkpoint):
    assert "teleop_node" not in by_name(graph(checkpoint))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"teleop": "keyboard"}, {"source": "keyboard", "terminal": "/dev/pts/7"}),
        ({"teleop": "serial", "teleop_port": "/dev/null"}, {"source": "serial", "serial_port": "/dev/null"}),
        ({"teleop": "joy"}, {"source": "joy"}),
    ],
)
def test_teleop_gets_its_device_and_its_end_leaves_the_arm_to_the_driver(checkpoint, given, expected):
    nodes = by_name(
        plan({"checkpoint": str(checkpoint), **given}, everything_installed, {}, terminal=lambda: "/dev/pts/7")
    )
    assert nodes["teleop_node"].parameters == {**expected, "autostart": True}
    assert not nodes["teleop_node"].essential
    assert ("joy_node" in nodes) == (given["teleop"] == "joy")


def test_a_gamepad_without_joy_node_is_left_to_the_user_with_a_note(checkpoint):
    joy = graph(checkpoint, teleop="joy")
    assert "joy_node" not in by_name(joy) and any("install the joy package" in note for note in joy.notes)


def test_a_namespace_reaches_every_ros_node(checkpoint):
    left = graph(checkpoint, namespace="left_arm")
    for node in left.nodes:
        if node.ros:
            assert "__ns:=/left_arm" in left.ros_arguments(node, Path("p.yaml"))


def test_free_text_stays_text_for_a_real_node_whatever_it_looks_like(tmp_path):
    texts = {"instruction": 'no: "1.0" # [ä] 🤖', "number": "123", "truth": "true", "empty": "", "flag": True,
             "cameras": ["front", "wrist"]}  # fmt: skip
    file = RunFolder(tmp_path / "run").write_parameters("node", texts)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = rclpy.create_node(
        "reader",
        context=context,
        cli_args=["--ros-args", "--params-file", str(file)],
        automatically_declare_parameters_from_overrides=True,
    )
    assert {name: node.get_parameter(name).value for name in texts} == texts
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_the_scenes_offered_are_those_that_the_world_knows():
    from actdistill_ros.sim.staging import SUITES, TASKS

    choices = {argument.name: argument.choices for argument in ARGUMENTS}
    assert (choices["task"], choices["suite"]) == (TASKS, SUITES)


def test_a_second_graph_in_the_same_namespace_is_refused_until_the_first_is_gone(tmp_path):
    first = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="another graph runs in this namespace and ROS domain"):
        RunFolder(tmp_path / "run")
    first.release()
    RunFolder(tmp_path / "run").release()


def test_namespaces_and_domains_have_folders_of_their_own(tmp_path):
    base = {"XDG_RUNTIME_DIR": str(tmp_path)}
    folders = {
        run_folder.path(name, {**base, "ROS_DOMAIN_ID": number}) for name in ("/", "/left") for number in ("0", "7")
    }
    assert len(folders) == 4


def test_a_long_namespace_leaves_room_for_socket_names(tmp_path):
    folder = run_folder.path("/" + "x" * 200, {"XDG_RUNTIME_DIR": "/run"} if Path("/run").is_dir() else {})
    assert len(str(folder / "motors.sock")) <= 107


@pytest.mark.parametrize("number", ["233", "-1", "abc"])
def test_a_domain_without_ports_is_refused(number):
    with pytest.raises(RunFolderError, match="not a number from 0 to 232"):
        run_folder.domain({"ROS_DOMAIN_ID": number})


def test_a_run_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot make the folder for this graph's sockets"):
        RunFolder(tmp_path / "file" / "run")


def test_logs_move_to_the_run_folder_when_the_home_cannot_be_written(tmp_path, monkeypatch):
    for name in ("ROS_LOG_DIR", "ROS_HOME"):
        monkeypatch.delenv(name, raising=False)

    def read_only(path):
        raise OSError(30, "Read-only file system")

    (note,) = log_folder(RunFolder(tmp_path / "run"), read_only)
    assert str(tmp_path / "run" / "log") in note
    monkeypatch.delenv("ROS_LOG_DIR")


def test_up_takes_options_and_launch_style_arguments(checkpoint):
    import argparse

    from actdistill_ros import up

    parser = argparse.ArgumentParser()
    up.add_arguments(parser)
    args = parser.parse_args(["--log-level", "debug", "seed:=3", "instruction:=put it: there := now"])
    assert values(args) == {"log_level": "debug", "seed": "3", "instruction": "put it: there := now"}


def test_up_help_lists_every_argument_with_its_choices():
    command = [sys.executable, "-m", "actdistill_ros.cli", "up", "--help"]
    text = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    for argument in ARGUMENTS:
        assert argument.meaning in text
        assert ", ".join(argument.choices) in text


def test_an_installed_package_finds_its_files_below_the_ament_prefix(tmp_path, monkeypatch):
    share = tmp_path / "share" / "actdistill_ros" / "config"
    share.mkdir(parents=True)
    shutil.copy(bringup.share() / "config" / "arm.yaml", share)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(bringup, "__file__", str(tmp_path / "elsewhere" / "actdistill_ros" / "bringup.py"))
    assert bringup.share() == share.parent


def test_a_mistyped_argument_is_warned_of_and_what_other_launch_files_take_is_not():
    assert mistyped(["seed", "instructions", "use_sim_time"]) == (
        "no argument 'instructions'; did you mean 'instruction'?",
    )
