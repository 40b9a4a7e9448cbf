"""The arguments that the node graph takes, by launch file and command alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from actdistill_ros.control.arm_models import MODELS
from actdistill_ros.policy import device

TELEOP = ("none", "keyboard", "joy", "spacemouse", "serial")


class BringupError(ValueError):
    """An argument that does not fit; raised before any node starts, the text says how to mend it."""


@dataclass(frozen=True)
class Argument:
    """One launch argument; every value is a string, as launch gives it."""

    name: str
    meaning: str
    default: str
    choices: tuple[str, ...] = ()


ARGUMENTS = (
    Argument("hardware", "which arm: the simulated world, the vendor SDK over an emulated bus, or the real arm", "sim",
             ("sim", "sdk_sim", "real")),
    Argument("model", "which model the arm is; the simulated world has an X5", "X5", tuple(MODELS)),
    Argument("can", "CAN interface of the real arm", "can0"),
    Argument("devices", "video devices of the real cameras, in the cameras' order, comma separated", ""),
    Argument("checkpoint", "folder of the policy, relative to here or to the package", "models/tabletop-teacher"),
    Argument("budget", "share of its decoder that the policy may run, 0.25 to 1; 0: what it was made for", "0"),
    Argument("device", f"where the policy computes: {device.FORMS}", "cpu"),
    Argument("instruction", "what the arm should do, in words; empty: wait for execute_task", ""),
    Argument("namespace", "ROS namespace of every node, for example left_arm; empty: none", ""),
    Argument("cameras", "names of the cameras, comma separated; empty: those of the checkpoint", ""),
    Argument("teleop", "what the operator holds: nothing, this terminal, a gamepad (topic joy), a SpaceMouse, or what "
             "is on a serial line: a leader arm, or a switch that lets teleop/twist of others through", "none", TELEOP),
    Argument("teleop_port", "serial port of the leader arm or switch, for example /dev/ttyUSB0 (teleop:=serial)", ""),
    Argument("rviz", "show the arm in RViz", "false", ("false", "true")),
    Argument("record", "new video file (.mp4) for the overlay image; empty: record nothing", ""),
    Argument("log_level", "least severe message that nodes log", "info", ("debug", "info", "warn", "error", "fatal")),
    Argument("task", "task that the simulated scene is set for", "bowl", ("lift", "bowl", "push", "stack")),
    Argument("suite", "how the simulated scene is set and how it looks", "tabletop", ("tabletop", "tabletop-hard")),
    Argument("seed", "seed of the simulated scene, 0 or more", "0"),
    Argument("meshes", "folder of link1.stl … that the simulated arm is drawn with; empty: plain shapes", ""),
    Argument("autostart", "nodes activate themselves; false: a lifecycle manager does it", "true", ("true", "false")),
)  # fmt: skip


def mistyped(given: Iterable[str]) -> tuple[str, ...]:
    """Warnings about names close to an argument's; `ros2 launch` passes over what it does not know, since a launch file
    that includes others may pass them more than they take."""
    known = [argument.name for argument in ARGUMENTS]
    close = {name: difflib.get_close_matches(name, known, 1) for name in given if name not in known}
    return tuple(f"no argument {name!r}; did you mean {found[0]!r}?" for name, found in close.items() if found)


def complete(values: Mapping[str, str]) -> dict[str, str]:
    """Every argument's value, defaults where none is given. Raises BringupError."""
    known = {argument.name: argument for argument in ARGUMENTS}
    for name in values:
        if name not in known:
            raise BringupError(f"unknown argument {name!r}; known: {', '.join(known)}.")
    value = {name: values.get(name, argument.default) for name, argument in known.items()}
    for name, argument in known.items():
        if argument.choices and value[name] not in argument.choices:
            raise BringupError(f"{name}:={value[name]} is not one of {', '.join(argument.choices)}.")
    if not device.is_named(value["device"]):
        raise BringupError(f"device:={value['device']} is no device; expected {device.FORMS}.")
    if not re.fullmatch(r"\d{1,9}", value["seed"]):
        raise BringupError(f"seed:={value['seed']} is not a whole number from 0 to 999999999.")
    return value
