"""Jogging with a SpaceMouse, read from the kernel's input events: no driver and no further library is needed.

Left button: dead-man. Right button: the gripper, open and closed in turn. What the device sends is in linux/input.h.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np

from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

EVENT = struct.Struct("@llHHi")
"""struct input_event: time (two words), type, code, value"""
SYN, KEY, REL, ABS = 0, 1, 2, 3
DROPPED = 3  # code of SYN: the kernel's buffer overran
LEFT, RIGHT = 0x100, 0x101  # BTN_0, BTN_1
FULL = 350.0
"""Value of an axis at its stop."""
DEADZONE = 0.1
MOVED_S = 0.1
"""A relative axis says nothing once it is let go; the device repeats what is deflected every 8 … 24 ms."""
QUIET_S = 0.5
"""An absolute axis says nothing while nothing changes; a hand is never still for so long, but a lost radio is."""
INPUTS = Path("/dev/input/by-id")
# The device's x points right, y to the operator, z down; base_link's forward, left, up.
AXES = ((1, -1.0), (0, -1.0), (2, -1.0))


def find(folder: Path = INPUTS) -> Path:
    """The event device of the SpaceMouse that is plugged in. Raises SourceError."""
    found = sorted({p for name in ("*3Dconnexion*event*", "*[Ss]pace[MN]*event*") for p in folder.glob(name)})
    if not found:
        raise SourceError(f"no SpaceMouse in {folder}: plug it in, or name its device, such as /dev/input/event5")
    return found[0]


class SpaceMouse:
    """Reads `device`, an event device of the kernel."""

    loss_is_stop = False

    def __init__(self, device: Path) -> None:
        """Raises SourceError if it cannot be opened."""
        try:
            self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            mend = ": sudo usermod -aG input $USER, and log in again" if error.errno == errno.EACCES else ""
            raise SourceError(f"SpaceMouse {device} cannot be opened ({error.strerror}){mend}") from error
        self._device, self._open, self._rest = device, True, b""
        self._closes, self._last_s = False, MOVED_S
        self._forget()

    def _forget(self) -> None:
        self._values, self._seen_s = np.zeros(6), np.full(6, -np.inf)
        self._held, self._grips, self._skip = False, False, False

    def read(self, now_s: float) -> Intent:
        for kind, code, value in self._events():
            self._take(kind, code, value, now_s)
        fresh = (0.0 <= now_s - self._seen_s) & (now_s - self._seen_s <= self._last_s)
        share = np.where(fresh, self._values, 0.0) / FULL
        share = np.sign(share) * np.clip((np.abs(share) - DEADZONE) / (1.0 - DEADZONE), 0.0, 1.0)
        motion = np.array([sign * share[block + axis] for block in (0, 3) for axis, sign in AXES])
        gripper = (0.0 if self._closes else 1.0) if self._grips else None
        return Intent(self._held, motion, gripper)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)

    def _take(self, kind: int, code: int, value: int, now_s: float) -> None:
        if kind == SYN:
            if code == DROPPED:
                self._forget()  # what was pressed is not known any more, so nothing is
            self._skip = code == DROPPED
        elif self._skip:
            return  # the rest of a report of which a part is lost
        elif kind in (REL, ABS) and code < 6:
            self._values[code] = value
            if kind == REL:
                self._seen_s[code], self._last_s = now_s, MOVED_S
            else:
                self._seen_s[:], self._last_s = now_s, QUIET_S
        elif kind == KEY and code == LEFT:
            self._held = value != 0
        elif kind == KEY and code == RIGHT:
            self._grips = value != 0
            self._closes ^= value == 1

    def _events(self) -> list[tuple[int, int, int]]:
        """Kind, code and value of what came since the last time."""
        if not self._open:
            raise SourceLost(f"SpaceMouse {self._device} is closed")
        data = self._rest
        try:
            while part := os.read(self._fd, 64 * EVENT.size):
                data += part
            raise SourceLost(f"SpaceMouse {self._device} is gone: was it unplugged?")
        except BlockingIOError:
            pass
        except OSError as error:
            raise SourceLost(f"SpaceMouse {self._device} is gone ({error.strerror}): was it unplugged?") from error
        whole = len(data) // EVENT.size * EVENT.size
        self._rest = data[whole:]
        return [event[2:] for event in EVENT.iter_unpack(data[:whole])]
