"""Jogging from a terminal. A key counts as held for as long as the terminal repeats it: letting go stops the arm."""

from __future__ import annotations

import os
import select
import termios
import tty
from pathlib import Path

import numpy as np

from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

HELD_S = 0.25
"""How long a key counts as held after it was last seen: longer than a terminal's repeat, 30 ms."""
MOTION = {
    "w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "r": (2, 1.0), "f": (2, -1.0),
    "j": (3, -1.0), "l": (3, 1.0), "i": (4, -1.0), "k": (4, 1.0), "u": (5, 1.0), "o": (5, -1.0),
}  # fmt: skip
"""Key -> axis 0 … 5 (along x, y, z, about x, y, z) and direction."""
OPEN, CLOSE, FRAME, STOP = "g", "h", "t", " "
HELP = (
    "hold a key to move: w/s x  a/d y  r/f z   j/l about x  i/k about y  u/o about z\r\n"
    "g open  h close  t base or tool frame  1-9 speed   SPACE emergency stop\r\n"
)
_ESCAPE = "\x1b"


class Keyboard:
    """Reads `terminal`, which is set to give every key at once and gets its settings back at `close`."""

    loss_is_stop = False

    def __init__(self, terminal: Path) -> None:
        """Raises SourceError if it is no terminal that can be opened."""
        try:
            self._fd = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(
                f"terminal {terminal} cannot be opened ({error.strerror}): run `actdistill teleop keyboard` in one"
            ) from error
        try:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        except termios.error as error:
            os.close(self._fd)
            raise SourceError(f"{terminal} is no terminal: run `actdistill teleop keyboard` in one") from error
        self._open = True
        self._seen_s: dict[str, float] = {}
        self._grip, self._grip_s = None, 0.0
        self._speed, self._tool = 0.5, None
        self._write(HELP)

    def read(self, now_s: float) -> Intent:
        stop = False
        for key in self._keys():
            if key in MOTION:
                self._seen_s[key] = now_s
            elif key in "123456789":
                self._speed = int(key) / 9.0
            elif key == FRAME:
                self._tool = not self._tool
                self._write(f"motion in the frame of the {'tool' if self._tool else 'base'}\r\n")
            elif key in (OPEN, CLOSE):
                self._grip, self._grip_s = (1.0 if key == OPEN else 0.0), now_s
            stop |= key == STOP
        motion = np.zeros(6)
        for key, seen_s in self._seen_s.items():
            if _held(seen_s, now_s):
                axis, direction = MOTION[key]
                motion[axis] += direction * self._speed
        # The gripper moves under the dead-man too, and its key is one.
        gripper = self._grip if _held(self._grip_s, now_s) else None
        return Intent(bool(motion.any()) or gripper is not None, motion, gripper, stop, self._tool)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal is gone, and its settings with it
        os.close(self._fd)

    def _keys(self) -> str:
        if not self._open:
            raise SourceLost("the terminal was closed")
        data = b""
        try:
            while select.select([self._fd], [], [], 0.0)[0]:
                if not (part := os.read(self._fd, 256)):
                    raise SourceLost("the terminal was closed")
                data += part
        except OSError as error:
            raise SourceLost(f"the terminal was closed ({error.strerror})") from error
        text = data.decode("ascii", "ignore")
        # Cursor and function keys send an escape and letters, which must not move the arm.
        return "" if _ESCAPE in text else text

    def _write(self, text: str) -> None:
        try:
            os.write(self._fd, text.encode())
        except OSError:
            pass  # help that cannot be shown must not stop the arm from being stopped


def _held(seen_s: float, now_s: float) -> bool:
    return 0.0 <= now_s - seen_s < HELD_S
