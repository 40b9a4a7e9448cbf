"""The node graph, described once: launch files and `actdistill up` read it and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actdistill_ros import run_folder, transport
from actdistill_ros.arm import can
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.hardware import WITHOUT_WORLD
from actdistill_ros.contract import contract
from actdistill_ros.contract.contract import Contract
from actdistill_ros.control import settings
from actdistill_ros.control.arm_models import MODELS
from actdistill_ros.launch_arguments import BringupError, complete
from actdistill_ros.sim import meshes
from actdistill_ros.sim.layout import CAMERAS as SIM_CAMERAS
from actdistill_ros.sim.protocol import ARM
from actdistill_ros.teleop import spacemouse

PACKAGE = "actdistill_ros"
DRIVER = "arm_driver_node"
NAMESPACE = re.compile(r"/?[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)
Parameter = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class NodeSpec:
    """One process of the graph.

    parameters, remappings: for ROS nodes. arguments: command line of a process that is no ROS node (`ros` is False).
    ready: a line on its standard output that the nodes after it wait for. essential: its end takes the graph down.
    """

    executable: str
    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    package: str = PACKAGE
    ros: bool = True
    ready: str | None = None
    essential: bool = True


@dataclass(frozen=True)
class Graph:
    """Processes in the order in which they start; they stop the other way round, so the driver outlives its masters.

    namespace: absolute, "/" if none. folder: where this graph keeps its sockets and parameter files, not made yet.
    environment: variables that the user did not set. notes: what is left out, and why.
    """

    nodes: tuple[NodeSpec, ...]
    namespace: str
    log_level: str
    folder: Path
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def ros_arguments(self, node: NodeSpec, parameters: Path) -> list[str]:
        """Command line that names a ROS node, places it in the namespace and gives it its parameter file."""
        pairs = {"__node": node.name, **({"__ns": self.namespace} if self.namespace != "/" else {}), **node.remappings}
        remaps = [word for old, new in pairs.items() for word in ("-r", f"{old}:={new}")]
        return ["--ros-args", *remaps, "--params-file", str(parameters), "--log-level", self.log_level]


def share() -> Path:
    """Folder that holds config/, launch/, models/ and urdf/: the source tree, or where colcon installed them."""
    source = Path(__file__).resolve().parent.parent
    prefixes = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    for folder in [source, *(prefix / "share" / PACKAGE for prefix in prefixes)]:
        if (folder / "config" / "arm.yaml").is_file():
            return folder
    raise BringupError(
        f"config/ of {PACKAGE} is neither in {source} nor below AMENT_PREFIX_PATH. Run make setup or colcon build."
    )


def find_executable(package: str, executable: str) -> Path | None:
    """Where `ros2 run package executable` would find it; for this package also beside the Python that runs now."""
    prefixes = [entry for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    folders = [str(Path(prefix) / "lib" / package) for prefix in prefixes]
    found = shutil.which(executable, path=os.pathsep.join(folders)) if folders else None
    return Path(found) if found else None


def plan(
    values: Mapping[str, str],
    find: Callable[[str, str], Path | None] = find_executable,
    environment: Mapping[str, str] = os.environ,
    bus: Callable[[str], can.CanBus] = can.SocketCan,
    terminal: Callable[[], str] = lambda: own_terminal(),
) -> Graph:
    """The graph for these argument values (missing ones take their defaults).

    bus: the CAN interface of that name, looked at if the arm is the real one. terminal: where the operator's keyboard
    is, empty if nowhere.
    Raises BringupError or ContractError if any value does not fit; nothing is started and nothing is written.
    """
    value = complete(values)
    hardware, model = value["hardware"], value["model"]
    real = hardware == "real"
    if real:
        _refuse_without_can(value["can"], bus)
    if hardware == "sim" and model != ARM:
        raise BringupError(f"model:={model}: the arm in the simulated world is an {ARM}. {WITHOUT_WORLD}.")
    base, namespace = share(), _namespace(value["namespace"])
    folder = run_folder.path(namespace, environment)
    autostart = value["autostart"] == "true"
    teleop, teleop_notes = _teleop(value, find, terminal)
    picture, notes = _picture(value["rviz"] == "true", base, MODELS[model].urdf, find)
    # Two publishers of the arm's links would fight on /tf; without the other one the driver publishes them if it can.
    links = {"publish_tf": False} if any(node.name == "robot_state_publisher" for node in picture) else {}
    can_interface = {"can_interface": value["can"]} if real else {}
    own = {"hardware": hardware, "model": model, "sim_endpoint": str(folder), "autostart": autostart}
    driver = NodeSpec(DRIVER, DRIVER, {**own, **can_interface, **links})
    if hardware == "sdk_sim" and model != ARM:
        nodes = _without_world(value, driver, folder)
        notes = (*notes, f"no simulated world has an {model}: no cameras, no policy; teleop and trajectories move it")
    else:
        nodes, slow = _with_policy(value, driver, folder, base)
        notes = (*notes, *slow)
    return Graph((*nodes, *teleop, *picture), namespace, value["log_level"], folder, middleware(environment),
                 (*notes, *teleop_notes))  # fmt: skip


def middleware(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of the ROS middleware for every process that this package starts."""
    return transport.variables(share() / "config", environment)


def _without_world(value: Mapping[str, str], driver: NodeSpec, folder: Path) -> list[NodeSpec]:
    """The emulated bus and the driver alone."""
    for name in ("instruction", "cameras", "devices", "record"):
        if value[name]:
            raise BringupError(f"{name}:={value[name]} needs cameras, and no simulated world has an {value['model']}: "
                               f"leave it out, or pass model:={ARM}.")  # fmt: skip
    return [_emulated_bus(folder, value["model"]), driver]


def _with_policy(
    value: Mapping[str, str], driver: NodeSpec, folder: Path, base: Path
) -> tuple[list[NodeSpec], tuple[str, ...]]:
    """World and emulated bus where there are any, then the driver, then what sees and thinks; and what to know of the
    policy."""
    real, autostart = value["hardware"] == "real", value["autostart"] == "true"
    checkpoint, promise = _checkpoint(value["checkpoint"], base)
    cameras = _cameras(value["cameras"], promise, checkpoint, () if real else SIM_CAMERAS)
    devices, record = _devices(value["devices"], cameras, real), _record(value["record"])
    sim = [_sim_world(value, cameras, folder)] + ([_emulated_bus(folder)] if value["hardware"] == "sdk_sim" else [])
    nodes = [
        *([] if real else sim),
        driver,
        NodeSpec("camera_node", "camera_node",
                 {"backend": "v4l2" if real else "sim", "cameras": cameras, "sim_endpoint": str(folder),
                  "autostart": autostart, **devices}),
        NodeSpec("inference_node", "inference_node",
                 {"checkpoint": str(checkpoint), "instruction": value["instruction"], "cameras": cameras,
                  "budget": _budget(value["budget"]), "device": value["device"], "autostart": autostart}),
        NodeSpec("monitor_node", "monitor_node",
                 {"camera": cameras[0], "autostart": autostart, **({"record": record} if record else {})}),
    ]  # fmt: skip
    return nodes, _too_slow(checkpoint, value["device"])


def _budget(text: str) -> float:
    """Whether the policy can keep to it, the inference node says."""
    if not re.fullmatch(r"0|1|[01]?\.\d{1,6}", text) or float(text) > 1.0:
        raise BringupError(f"budget:={text} is not a number from 0 to 1, such as 0.47.")
    return float(text)


def _namespace(text: str) -> str:
    if text in ("", "/"):
        return "/"
    if not NAMESPACE.fullmatch(text):
        raise BringupError(
            f"namespace:={text} is not a ROS name: letters, digits and _ between slashes, each part begins with "
            "a letter. For example namespace:=left_arm."
        )
    return "/" + text.lstrip("/")


def _checkpoint(text: str, base: Path) -> tuple[Path, Contract]:
    for folder in (Path(text).expanduser(), base / text):
        if folder.is_dir():
            return folder.resolve(), _promise(folder.resolve())
    found = sorted(str(path.parent.relative_to(base)) for path in base.glob(f"models/*/{contract.FILE}"))
    raise BringupError(
        f"checkpoint:={text} is no folder, neither here ({Path.cwd()}) nor in {base}. "
        f"Bundled: {', '.join(found) or 'none'}."
    )


def _promise(folder: Path) -> Contract:
    if _is_own(folder):
        return contract.load(folder)
    # Imported late: it brings torch, and only a published model's folder has to be read that closely.
    from actdistill_ros.policy import loading

    return loading.contract(folder)


def _is_own(folder: Path) -> bool:
    """Whether the folder is a policy of this package's own, rather than a published model's."""
    return (folder / contract.FILE).is_file()


def _too_slow(checkpoint: Path, device: str) -> tuple[str, ...]:
    """What to know of a published model on the CPU; one of this package's own is made for it."""
    if device != "cpu" or _is_own(checkpoint):
        return ()
    age_s = settings.load().max_chunk_age_s
    return (
        f"{checkpoint.name} is a published model and runs on the CPU, where a step of a 7 B model takes about ten "
        f"seconds: the driver takes no chunk whose observation is older than {age_s:g} s (max_chunk_age_s in "
        "config/arm.yaml), so the arm would not move. With a GPU, pass device:=cuda",
    )


def _refuse_without_can(name: str, bus: Callable[[str], can.CanBus]) -> None:
    """Before anything starts; the driver looks again, and closer, when it connects."""
    try:
        can.check_name(name)
        if why := can.link_refusal(name, bus(name).link()):
            raise BringupError(f"hardware:=real: {why}")
    except ArmError as error:
        raise BringupError(f"hardware:=real: {error}") from None


def _devices(text: str, cameras: tuple[str, ...], real: bool) -> dict[str, str]:
    """Parameters that say which video device each camera is."""
    given = tuple(word.strip() for word in text.split(",")) if text else ()
    if not real and not given:
        return {}
    if not real or len(given) != len(cameras):
        raise BringupError(
            f"devices:={text} names {len(given)} video devices. hardware:=real needs one for each of the cameras "
            f"{', '.join(cameras)}, for example devices:=/dev/video0,/dev/video2; other hardware has none."
        )
    return {f"{camera}.device": device for camera, device in zip(cameras, given, strict=True)}


def _cameras(text: str, promise: Contract, checkpoint: Path, known: tuple[str, ...]) -> tuple[str, ...]:
    """known: names of the cameras that there are; empty if any may be."""
    needed = tuple(camera.name for camera in promise.cameras)
    given = tuple(name.strip() for name in text.split(",")) if text else needed
    for name in given:
        if known and name not in known:
            raise BringupError(f"cameras:={text or ','.join(given)}: the simulated world has no camera {name!r}; "
                               f"it has {', '.join(known)}.")  # fmt: skip
    if len(set(given)) != len(given):
        raise BringupError(f"cameras:={text} names a camera twice.")
    if not set(needed) <= set(given):
        raise BringupError(
            f"checkpoint {checkpoint} expects cameras {', '.join(needed)}; this graph has {', '.join(given)} only. "
            f"Pass cameras:={','.join(needed)} or leave it out."
        )
    return given


def _record(text: str) -> str:
    if not text:
        return ""
    path = Path(text).expanduser().absolute()
    if path.suffix != ".mp4" or path.exists() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise BringupError(f"record:={text} is not a new .mp4 file in a folder that exists and can be written.")
    return str(path)


def _sim_world(value: Mapping[str, str], cameras: tuple[str, ...], folder: Path) -> NodeSpec:
    options = {"endpoint": str(folder), "cameras": ",".join(cameras)} | {
        key: value[key] for key in ("suite", "task", "seed")
    }
    if value["meshes"]:
        try:
            meshes.find(Path(value["meshes"]))
        except ValueError as error:
            raise BringupError(f"meshes:={value['meshes']}: {error}.") from error
        options["meshes"] = str(Path(value["meshes"]).resolve())
    arguments = tuple(word for name, text in options.items() for word in (f"--{name}", text))
    return NodeSpec("sim_world", "sim_world", arguments=arguments, ros=False, ready="ready")


def _emulated_bus(folder: Path, model: str = ARM) -> NodeSpec:
    """In front of the simulated world if that has such an arm, else with simple joints."""
    start = ",".join(f"{q:g}" for q in MODELS[model].home_rad)
    arm = ("--world", str(folder)) if model == ARM else ("--model", model, f"--start={start}")
    return NodeSpec("emulated_bus", "emulated_bus", arguments=("--folder", str(folder), *arm), ros=False, ready="ready")


def own_terminal() -> str:
    """Path of the terminal that this process was started in; empty if there is none."""
    try:
        return os.ttyname(0)
    except OSError:
        return ""


def _teleop(
    value: Mapping[str, str], find: Callable[[str, str], Path | None], terminal: Callable[[], str]
) -> tuple[tuple[NodeSpec, ...], tuple[str, ...]]:
    """What the operator jogs with. Its end leaves the graph running: the driver then holds by itself."""
    source, port = value["teleop"], value["teleop_port"]
    if port and source != "serial":
        raise BringupError(f"teleop_port:={port} is for teleop:=serial; this graph has teleop:={source}.")
    if source == "none":
        return (), ()
    parameters = {"source": source, "autostart": value["autostart"] == "true"}
    nodes, notes = [], ()
    if source == "serial":
        if not port or not Path(port).exists():
            raise BringupError(
                f"teleop:=serial needs the port of its device, and teleop_port:={port} is none. Plug it in, look with "
                "ls /dev/tty*, and pass for example teleop_port:=/dev/ttyUSB0."
            )
        parameters["serial_port"] = port
    elif source == "keyboard":
        if not (path := terminal()):
            raise BringupError(
                "teleop:=keyboard needs a terminal, and this was started in none. Run actdistill teleop keyboard in a "
                "terminal beside it."
            )
        parameters["terminal"] = path
    elif source == "spacemouse":
        try:
            spacemouse.find()
        except ValueError as error:
            raise BringupError(f"teleop:=spacemouse: {error}.") from error
    elif find("joy", "joy_node"):
        nodes.append(NodeSpec("joy_node", "joy_node", {"autorepeat_rate": 20.0}, package="joy", essential=False))
    else:
        notes = (
            "no joy_node here: install the joy package of your ROS distribution, or publish sensor_msgs/Joy on joy",
        )
    return (NodeSpec("teleop_node", "teleop_node", parameters, essential=False), *nodes), notes


def _picture(
    rviz: bool, base: Path, urdf: Path, find: Callable[[str, str], Path | None]
) -> tuple[tuple[NodeSpec, ...], tuple[str, ...]]:
    """What shows the arm: its moving frames where the machine can publish them, RViz where it is asked for."""
    if rviz and not find("rviz2", "rviz2"):
        raise BringupError(
            "rviz:=true, but RViz is not installed here. Install the rviz2 package of your ROS distribution "
            "(sudo apt-get install ros-$ROS_DISTRO-rviz2) or leave rviz out."
        )
    nodes, notes, name = [], [], "robot_state_publisher"
    if find(name, name):
        nodes.append(NodeSpec(name, name, {"robot_description": (base / urdf).read_text()}, package=name))
    else:
        notes.append(
            "no robot_state_publisher here: /robot_description stays silent; "
            "the driver publishes /tf where tf2_msgs is installed"
        )
    if rviz:
        config = str(base / "config" / "arm.rviz")
        nodes.append(NodeSpec("rviz2", "rviz2", arguments=("-d", config), package="rviz2", essential=False))
    return tuple(nodes), tuple(notes)
