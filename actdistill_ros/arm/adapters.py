"""USB adapters for CAN on this machine: which there are, and what makes an interface of each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from actdistill_ros.arm import can

USB = Path("/sys/bus/usb/devices")
CANDLELIGHT = {("1d50", "606f"), ("1209", "2323"), ("1cd2", "606f"), ("16d0", "10b8")}
"""USB ids of adapters that speak gs_usb: the kernel makes the interface by itself."""
SLCAN = {("16d0", "117e"), ("ad50", "60c4")}
"""USB ids of adapters that speak SLCAN over a serial port."""
ANSWER_S = 0.3


@dataclass(frozen=True)
class Port:
    """A serial port: its path and its USB ids, four hexadecimal digits each; empty if it is on no USB."""

    path: str
    vendor: str
    product: str


def serial_ports() -> list[Port]:
    from serial.tools.list_ports import comports

    return [
        Port(port.device, f"{port.vid:04x}" if port.vid else "", f"{port.pid:04x}" if port.pid else "")
        for port in comports()
    ]


def usb_ids(root: Path = USB) -> set[tuple[str, str]]:
    """Vendor and product of everything on USB."""
    found = set()
    for file in root.glob("*/idVendor"):
        try:
            found.add((file.read_text().strip(), (file.parent / "idProduct").read_text().strip()))
        except OSError:
            continue  # unplugged meanwhile
    return found


def slcan_version(path: str, seconds: float = ANSWER_S) -> str:
    """What an SLCAN adapter at this serial port says of its firmware, for example V1013; empty if it is none.

    Raises OSError if the port cannot be opened.
    """
    import serial

    with serial.Serial(path, 115200, timeout=0.02, write_timeout=seconds) as port:
        port.reset_input_buffer()
        port.write(b"\rV\r")
        heard, until = b"", time.monotonic() + seconds
        while time.monotonic() < until:
            heard += port.read(64)
            for line in heard.split(b"\r")[:-1]:
                word = line.strip(b"\x07\n ")
                if word[:1] == b"V" and len(word) >= 3 and word[1:].isalnum():
                    return word.decode()
    return ""


def without_interface(name: str, ids: set[tuple[str, str]], ports: Iterable[Port]) -> list[str]:
    """What keeps this machine from having the interface `name`, and the command that makes it, in words."""
    found = []
    if ids & CANDLELIGHT:
        found.append("a candleLight adapter is plugged in, but its driver made no interface: sudo modprobe gs_usb")
    for port in ports:
        if (port.vendor, port.product) in SLCAN:
            found.append(_slcan_words(name, port))
    return found or [
        "no CAN adapter is plugged in (neither candleLight nor SLCAN is on USB). Plug it in; if it is, try another "
        "cable, and look at `lsusb` and `sudo dmesg | tail`"
    ]


def _slcan_words(name: str, port: Port) -> str:
    try:
        version = slcan_version(port.path)
    except OSError as error:
        return f"an SLCAN adapter is at {port.path}, which cannot be opened ({error}): sudo usermod -aG dialout $USER"
    if not version:
        return f"an SLCAN adapter is at {port.path}, but it does not answer: unplug it and plug it in again"
    return (
        f"an SLCAN adapter ({version}) is at {port.path}: sudo slcand -o -c -s8 {port.path} {name} && "
        f"sudo ip link set {name} up (slcand is in the package can-utils)"
    )


def udev_rule(name: str) -> str:
    """The command that brings the interface up whenever the adapter is plugged in."""
    rule = f'SUBSYSTEM=="net", ACTION=="add", KERNEL=="{name}", '
    rule += f'RUN+="/sbin/ip link set {name} up type can bitrate {can.BITRATE}"'
    return f"echo '{rule}' | sudo tee /etc/udev/rules.d/80-{name}.rules && sudo udevadm control --reload"
