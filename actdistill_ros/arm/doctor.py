"""`actdistill doctor arm`: adapter, bus and motors of the arm, what is wrong and how to mend it; moves nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actdistill_ros.arm import adapters, can, sdk_settings
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.bus_monitor import LIMIT_MAX, LIMIT_MIN, READOUT_RAD, BusMonitor
from actdistill_ros.arm.can import CanBus, SocketCan
from actdistill_ros.arm.damper import hear
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.frames import BRAKE, DM_ON, FRAME, MODELS, Answer, fault_words
from actdistill_ros.arm.sdk_arm import OPEN_READOUT_RAD
from actdistill_ros.arm.sdk_settings import SdkSettings

ANSWER_S = 0.1
TRIES = 3
WIDTH_MM = 88.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    ok: bool
    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--can", default="can0", help="CAN interface of the arm (default: %(default)s)")
    parser.add_argument(
        "--model", choices=sorted(MODELS), default="X5", help="arm that should be there (default: %(default)s)"
    )
    parser.add_argument(
        "--motors",
        action="store_true",
        help="ask each motor, with a frame that only brakes; an arm that somebody left holding lets go: support it",
    )
    parser.add_argument("--emulated", type=Path, metavar="FOLDER", help="look at the emulated bus there instead")


def run(args: argparse.Namespace) -> int:
    """One line per finding; 1 if any is wrong."""
    bus: CanBus = EmulatedCan(args.can, args.emulated) if args.emulated else SocketCan(args.can)
    failed = 0
    for finding in examine(bus, args.model, args.motors):
        failed |= not finding.ok
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name:<10} {finding.text}", flush=True)
    return int(failed)


def examine(
    bus: CanBus,
    model: str = "X5",
    motors: bool = False,
    ids: Callable[[], set[tuple[str, str]]] = adapters.usb_ids,
    ports: Callable[[], list[adapters.Port]] = adapters.serial_ports,
) -> Iterator[Finding]:
    """From the software to the motors; ends where what follows makes no sense any more."""
    yield _sdk()
    try:
        settings = sdk_settings.load(model=model)
    except ArmError as error:
        yield Finding(False, "settings", str(error))
        return
    yield Finding(True, "settings", f"config/sdk.yaml fits, model {model}")
    try:
        can.check_name(bus.name)
        link = bus.link()
    except ArmError as error:
        yield Finding(False, "interface", str(error))
        if not isinstance(bus, SocketCan) or bus.name.startswith(can.ETHERNET):
            return
        for words in adapters.without_interface(bus.name, ids(), ports()):
            yield Finding(False, "adapter", words)
        return
    if why := can.link_refusal(bus.name, link):
        yield Finding(False, "interface", f"{why}\n     at every plug-in: {adapters.udev_rule(bus.name)}")
        return
    yield Finding(True, "interface", f"{bus.name} is up, {link.bitrate} bit/s, {link.state}")
    try:
        can.preflight(bus)
    except ArmError as error:
        yield Finding(False, "bus", str(error))
        return
    yield Finding(True, "bus", "quiet, nobody else uses it")
    if not motors:
        yield Finding(True, "motors", "not asked; add --motors (support the arm: one that was left holding lets go)")
        return
    yield from examine_motors(bus, settings)


def examine_motors(bus: CanBus, settings: SdkSettings) -> Iterator[Finding]:
    """Ask the gripper, then the wrist, then the big joints, which are another kind in another model and take the frame
    for the same."""
    model, monitor = settings.model, BusMonitor(settings)
    with bus.open() as connection:
        for index in (6, 3, 4, 5, 0, 1, 2):
            motor = monitor.motors[index]
            answer = ask(connection, monitor, index, FRAME.pack(motor.id, 8, BRAKE))
            if monitor.other_model:
                yield Finding(False, "model", f"{monitor.other_model}: this is no {model}; {_other(model)}")
                return
            if answer is None:
                yield Finding(
                    False, motor.name, f"motor {motor.id} does not answer: check power, its cable and the plug"
                )
                continue
            if motor.kind.damiao and answer.fault == DM_ON and index == 6:
                # The joints may be under power too, and the frame would let the arm go.
                yield Finding(False, motor.name, "is switched on by a driver that did not end well: switch the arm's "
                              "supply off and on, then ask again")  # fmt: skip
                return
            yield judge(index, answer, monitor, settings.temperature_limit_c)
    yield Finding(True, "model", f"the motors speak as those of an {model} do")


def ask(connection: socket.socket, monitor: BusMonitor, index: int, packet: bytes) -> Answer | None:
    """The motor's answer to a frame; None if there is none. Raises ArmError if the bus does not take the frame."""
    for _ in range(TRIES):
        try:
            connection.send(packet)
        except OSError as error:
            raise ArmError(f"the bus takes no frames: {error.strerror}") from error
        until = time.monotonic() + ANSWER_S
        while (left := until - time.monotonic()) > 0.0:
            select.select([connection], [], [], left)
            hear(connection, monitor)
            if monitor.tracks[index].answer or monitor.other_model:
                return monitor.answers()[index]
    return None


def judge(index: int, answer: Answer, monitor: BusMonitor, hot_c: float) -> Finding:
    """What a motor reported, in one line."""
    motor = monitor.motors[index]
    warm = ", ".join(f"{value:.0f} °C" for value in answer.temperature_c)
    at = f"{answer.position_rad:.2f} rad"
    if index == 6:
        at = f"{answer.position_rad / OPEN_READOUT_RAD * WIDTH_MM:.0f} mm open ({at})"
    said = f"at {at}, {warm}"
    words = fault_words(motor, answer.fault)
    if words and words != "switched off":  # as it should be before a driver switches it on
        return Finding(False, motor.name, f"reports {words}; {said}")
    if max(answer.temperature_c) > hot_c:
        return Finding(False, motor.name, f"is too hot, at most {hot_c:g} °C: let it cool down; {said}")
    low, high = READOUT_RAD if index == 6 else (LIMIT_MIN[index] - 0.05, LIMIT_MAX[index] + 0.05)
    if not low <= answer.position_rad <= high:
        remedy = "close it by hand, or set its zero again" if index == 6 else "move it inside by hand"
        return Finding(False, motor.name, f"outside {low:.2f} … {high:.2f} rad: {remedy}; {said}")
    return Finding(True, motor.name, said)


def _sdk() -> Finding:
    try:
        return Finding(True, "SDK", f"arx5-interface {importlib.metadata.version('arx5-interface')}")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            False, "SDK", "arx5-interface is not installed: make setup, or pip install arx5-interface==0.1.5"
        )


def _other(model: str) -> str:
    other = next(name for name in sorted(MODELS) if name != model)
    return f"for an {other}, ask with --model {other} and start with model:={other}"
