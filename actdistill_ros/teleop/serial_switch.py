"""A dead-man with emergency stop, or a leader arm with both, on a serial line; unplugging it is a stop.

The device repeats one line at least ten times a second, of a switch or of a leader arm:

    $S,<dead-man 0 or 1>,<stop 0 or 1>*<checksum>
    $L,<dead-man>,<stop>,<six joints in rad>,<gripper opening 0 … 1>*<checksum>

The checksum is that of NMEA 0183: two hexadecimal digits, the exclusive or of all characters between $ and *.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import replace

import numpy as np
import serial

from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

SILENT_S = 0.25
"""A device that says nothing valid for this long is unplugged, dead or not such a device."""
LONGEST = 256
LENGTHS = {"S": 0, "L": 7}
"""Values after the switches, by the kind of line."""


def frame(body: str) -> bytes:
    """The line that carries `body`, as a device sends it."""
    return f"${body}*{_checksum(body):02X}\r\n".encode("ascii")


def parse(line: bytes) -> Intent | None:
    """What one line says, or None for anything else: noise must never move the arm."""
    text = line.decode("ascii", "replace").strip()
    body, star, digits = text.removeprefix("$").rpartition("*")
    if not (text.startswith("$") and star and digits == f"{_checksum(body):02X}"):
        return None
    kind, *words = body.split(",")
    switches, rest = words[:2], words[2:]
    if len(rest) != LENGTHS.get(kind, -1) or len(switches) != 2 or not set(switches) <= {"0", "1"}:
        return None
    deadman, stop = (switch == "1" for switch in switches)
    if kind == "S":
        return Intent(deadman, stop=stop)
    try:
        values = np.array([float(word) for word in rest])
    except ValueError:
        return None
    if not (np.abs(values[:6]) <= np.pi).all() or not 0.0 <= values[6] <= 1.0:
        return None
    return Intent(deadman, stop=stop, gripper=float(values[6]), joints=values[:6])


class SerialSwitch:
    """The device on serial port `port`, for example /dev/ttyUSB0."""

    loss_is_stop = True

    def __init__(self, port: str, baud: int, now_s: float) -> None:
        """Raises SourceError if the port cannot be opened."""
        if not port:
            raise SourceError("no serial port is named: pass the device's, for example /dev/ttyUSB0")
        try:
            self._port = serial.Serial(port, baud, timeout=0.0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise SourceError(
                f"serial port {port} cannot be opened: {error}. Is it plugged in, is the user in group dialout?"
            ) from error
        self._rest, self._heard_s, self._newest = b"", now_s, Intent(False)

    def read(self, now_s: float) -> Intent:
        try:
            data = self._port.read(4096)
        except (serial.SerialException, OSError, TypeError) as error:  # TypeError: closed in the middle of a read
            raise SourceLost(f"serial port {self._port.port} is gone: {error}") from error
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LONGEST:]
        if heard := [intent for intent in map(parse, lines) if intent]:
            # A stop between two reads is one, even if it was let go again; the rest is what it is now.
            self._newest, self._heard_s = replace(heard[-1], stop=any(intent.stop for intent in heard)), now_s
        if not 0.0 <= now_s - self._heard_s <= SILENT_S:
            raise SourceLost(
                f"serial port {self._port.port} gave no valid line for {now_s - self._heard_s:.1f} s: is the device "
                "powered, and is the baud rate right?"
            )
        return self._newest

    def close(self) -> None:
        self._port.close()


def _checksum(body: str) -> int:
    return functools.reduce(operator.xor, body.encode("ascii", "replace"), 0)
