"""The CAN bus as the driver sees it: what state its interface is in, a socket on it, and whether it may be used."""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actdistill_ros.arm.error import ArmError
from actdistill_ros.arm.frames import FRAME, ID_MASK

BITRATE = 1_000_000
QUIET_S = 0.1
"""How long nobody may talk on a bus before it is used; a driver sends every few milliseconds."""
ARPHRD_CAN = "280"
NETWORK = Path("/sys/class/net")
RECEIVERS = Path("/proc/net/can")
ETHERNET = ("en", "eth")
RETICENT = ("vcan", "vxcan", "slcan")
SOL_CAN_RAW, CAN_RAW_ERR_FILTER = 101, 2
ERRORS = 0x40 | 0x100 | 0x04 | 0x20  # bus-off, restarted, controller problems, no acknowledgement


@dataclass(frozen=True)
class Link:
    """state: error-active, error-warning, error-passive, bus-off or stopped. users: who else has it open, in words."""

    up: bool
    bitrate: int
    state: str
    users: tuple[str, ...]


class CanBus(Protocol):
    """One interface. Sockets carry `struct can_frame`, one per packet, and hear what others on this machine send."""

    name: str

    def link(self) -> Link:
        """Raises ArmError if there is no such CAN interface."""

    def open(self) -> socket.socket:
        """A non-blocking socket that also hears error frames. Raises ArmError."""

    def environment(self) -> dict[str, str]:
        """Variables that the vendor SDK needs to find this bus."""


class SocketCan:
    """An interface of the Linux kernel."""

    def __init__(self, name: str) -> None:
        self.name = name

    def link(self) -> Link:
        folder = NETWORK / self.name
        if not folder.is_dir():
            raise ArmError(f"no interface {self.name} here; {_what_there_is(self.name)}")
        if (folder / "type").read_text().strip() != ARPHRD_CAN:
            raise ArmError(f"{self.name} is no CAN interface; {_what_there_is(self.name)}")
        if shutil.which("ip") is None:
            raise ArmError("the command ip is missing, which tells the bitrate: sudo apt-get install -y iproute2")
        command = ["ip", "-details", "-json", "link", "show", self.name]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise ArmError(f"{' '.join(command)} failed: {result.stderr.strip()}")
        return parse_link(json.loads(result.stdout)[0], _users(self.name))

    def open(self) -> socket.socket:
        try:
            connection = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
            connection.setsockopt(SOL_CAN_RAW, CAN_RAW_ERR_FILTER, ERRORS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            connection.bind((self.name,))
        except OSError as error:
            raise ArmError(f"{self.name} cannot be opened: {error.strerror}") from error
        connection.setblocking(False)
        return connection

    def environment(self) -> dict[str, str]:
        return {}


def parse_link(body: dict, users: tuple[str, ...] = ()) -> Link:
    """From one entry of `ip -details -json link show`; virtual and older serial ones tell no bitrate and no state."""
    info = body.get("linkinfo", {})
    data = info.get("info_data", {})
    reticent = info.get("info_kind") in RETICENT
    state = str(data.get("state", "ERROR-ACTIVE" if reticent else "unknown")).lower()
    bitrate = int(data.get("bittiming", {}).get("bitrate", BITRATE if reticent else 0))
    return Link("UP" in body.get("flags", ()), bitrate, state, users)


def check_name(name: str) -> None:
    """Raises ArmError for a name that must never reach the vendor SDK."""
    if name.startswith(ETHERNET):
        # The SDK would open a raw EtherCAT socket on that network card and leave it in promiscuous mode.
        raise ArmError(
            f"interface {name} is a network card, not a CAN interface, and this driver speaks CAN only: over EtherCAT "
            f"nothing could watch the motors. Name the CAN interface; {_what_there_is(name)}"
        )
    if not name.startswith("can") or len(name) > 15:
        raise ArmError(f"interface {name!r} must begin with can and have at most 15 characters, for example can0")


def preflight(bus: CanBus, quiet_s: float = QUIET_S) -> None:
    """Look before anything is sent. Raises ArmError with what is wrong and the command that mends it."""
    name = bus.name
    try:
        _look(bus, quiet_s)
    except OSError as error:
        raise ArmError(f"{name} went away while it was looked at ({error}): was the adapter unplugged?") from error


def _look(bus: CanBus, quiet_s: float) -> None:
    name, link = bus.name, bus.link()
    if why := link_refusal(name, link):
        raise ArmError(why)
    if link.users:
        raise ArmError(f"{name} is used already by {', '.join(link.users)}: one driver per arm. Stop it first")
    with bus.open() as listener:
        frame = _first_frame(listener, quiet_s)
    if frame is not None:
        raise ArmError(
            f"{name} carries frames already (id 0x{frame & ID_MASK:X}): another driver commands the arm. Stop it first"
        )


def link_refusal(name: str, link: Link) -> str:
    """Why an interface in this state cannot be used, and the command that mends it; empty if it can."""
    again = restart(name)
    if not link.up:
        return f"{name} is down: {again}"
    if link.bitrate != BITRATE:
        return f"{name} has bitrate {link.bitrate}, the arm's motors have {BITRATE}: {again}"
    if link.state == "bus-off":
        return (
            f"{name} is bus-off (the adapter gave up: cable, termination or power of the arm). Check them, then {again}"
        )
    if link.state != "error-active":
        return f"{name} is {link.state}, expected error-active: nobody answers on the bus. Check power and cable"
    return ""


def restart(name: str) -> str:
    """The command that sets the bitrate and brings an interface up, also out of bus-off."""
    return f"sudo ip link set {name} down; sudo ip link set {name} up type can bitrate {BITRATE}"


def _first_frame(listener: socket.socket, seconds: float) -> int | None:
    """Id of the first frame that anybody sends in that time. Raises OSError if the interface ends."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([listener], [], [], left)[0]:
            packet = listener.recv(FRAME.size)
            if len(packet) < FRAME.size:
                raise ConnectionError("it ended")
            return FRAME.unpack(packet)[0]
    return None


def interfaces() -> tuple[str, ...]:
    """Names of this machine's CAN interfaces."""
    try:
        folders = sorted(NETWORK.iterdir())
    except OSError:
        return ()
    return tuple(f.name for f in folders if (f / "type").is_file() and (f / "type").read_text().strip() == ARPHRD_CAN)


def _what_there_is(name: str) -> str:
    found = interfaces()
    if found:
        return f"CAN interfaces here: {', '.join(found)}"
    return (
        "this machine has no CAN interface. Plug the adapter in and look with `ip link`; a serial one (slcan) needs "
        "`sudo slcand -o -c -s8 /dev/ttyACM0 can0 && sudo ip link set can0 up`"
    )


def _users(name: str) -> tuple[str, ...]:
    """Sockets that other programs have on the interface; the kernel lists what they listen to."""
    found = 0
    for file in RECEIVERS.glob("rcvlist_*"):
        found += sum(name in line.split() for line in file.read_text().splitlines() if "raw" in line)
    return (f"{found} other receiver{'s' if found > 1 else ''} (see {RECEIVERS}/rcvlist_all)",) if found else ()
