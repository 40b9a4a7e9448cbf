"""A dead-man and emergency stop on a serial line; unplugging it is a stop.

The device repeats one line at least ten times a second:

    $S,<dead-man 0 or 1>,<stop 0 or 1>*<checksum>

The checksum is that of NMEA 0183: two hexadecimal digits, the exclusive or of all characters between $ and *.
"""

from __future__ import annotations

import functools
import operator

import serial

from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

SILENT_S = 0.25
"""A device that says nothing valid for this long is unplugged, dead or not such a device."""
LONGEST = 64


def frame(body: str) -> bytes:
    """The line that carries `body`, as a device sends it."""
    return f"${body}*{_checksum(body):02X}\r\n".encode("ascii")


def parse(line: bytes) -> tuple[bool, bool] | None:
    """(dead-man, stop) of one line, or None for anything else: noise must never move the arm."""
    text = line.decode("ascii", "replace").strip()
    body, star, digits = text.removeprefix("$").rpartition("*")
    if not (text.startswith("$") and star and digits == f"{_checksum(body):02X}"):
        return None
    kind, *switches = body.split(",")
    if kind != "S" or len(switches) != 2 or not set(switches) <= {"0", "1"}:
        return None
    return switches[0] == "1", switches[1] == "1"


class SerialSwitch:
    """The switches on serial port `port`, for example /dev/ttyUSB0."""

    loss_is_stop = True

    def __init__(self, port: str, baud: int, now_s: float) -> None:
        """Raises SourceError if the port cannot be opened."""
        if not port:
            raise SourceError("no serial port is named: pass the switch's, for example /dev/ttyUSB0")
        try:
            self._port = serial.Serial(port, baud, timeout=0.0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise SourceError(
                f"serial port {port} cannot be opened: {error}. Is it plugged in, is the user in group dialout?"
            ) from error
        self._rest, self._heard_s, self._switches = b"", now_s, (False, False)

    def read(self, now_s: float) -> Intent:
        try:
            data = self._port.read(4096)
        except (serial.SerialException, OSError, TypeError) as error:  # TypeError: closed in the middle of a read
            raise SourceLost(f"serial port {self._port.port} is gone: {error}") from error
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LONGEST:]
        if heard := [switches for switches in map(parse, lines) if switches]:
            # A stop between two reads is one, even if it was let go again; the dead-man is what it is now.
            self._switches, self._heard_s = (heard[-1][0], any(stop for _, stop in heard)), now_s
        if not 0.0 <= now_s - self._heard_s <= SILENT_S:
            raise SourceLost(
                f"serial port {self._port.port} gave no valid line for {now_s - self._heard_s:.1f} s: is the switch "
                "powered, and is the baud rate right?"
            )
        return Intent(deadman=self._switches[0], stop=self._switches[1])

    def close(self) -> None:
        self._port.close()


def _checksum(body: str) -> int:
    return functools.reduce(operator.xor, body.encode("ascii", "replace"), 0)
