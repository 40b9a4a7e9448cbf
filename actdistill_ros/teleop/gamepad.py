"""Jogging with a gamepad: axes and buttons as sensor_msgs/Joy gives them become what the operator wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

SILENT_S = 0.25
"""joy_node repeats 20 times a second by default; a gamepad that says nothing for this long is gone."""
DEADZONE = 0.1


@dataclass(frozen=True)
class Mapping:
    """axes: for along and about x, y, z the sign and number of a stick, such as "+1"; empty for none.
    The rest are numbers of buttons. Defaults: the layout that joy_node gives an Xbox gamepad."""

    axes: tuple[str, ...] = ("+1", "+0", "+4", "", "", "+3")
    deadman: int = 4  # left shoulder
    stop: int = 1  # B
    open: int = 3  # Y
    close: int = 0  # A
    tool: int = 5  # right shoulder, while it is held

    def __post_init__(self) -> None:
        if len(self.axes) != 6 or not all(_is_axis(axis) for axis in self.axes):
            raise SourceError(
                f'axes are {list(self.axes)}, expected six of a sign and a number, for example "+1", or "" for none'
            )
        buttons = (self.deadman, self.stop, self.open, self.close, self.tool)
        if min(buttons) < 0 or len(set(buttons)) != len(buttons):
            raise SourceError(f"buttons are {buttons}, expected five different numbers from 0 on")


class Gamepad:
    """`hear` takes the messages as they come, `read` says what the newest one means."""

    loss_is_stop = False

    def __init__(self, mapping: Mapping | None = None) -> None:
        self._mapping = mapping or Mapping()
        self._axes: Sequence[float] = ()
        self._buttons: Sequence[int] = ()
        self._heard_s: float | None = None

    def hear(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> None:
        self._axes, self._buttons, self._heard_s = axes, buttons, now_s

    def read(self, now_s: float) -> Intent | None:
        if self._heard_s is None:
            return None
        if not 0.0 <= now_s - self._heard_s <= SILENT_S:
            silent_s, self._heard_s = now_s - self._heard_s, None
            raise SourceLost(
                f"the gamepad was silent for {silent_s:.1f} s: is joy_node running with autorepeat_rate 20?"
            )
        m = self._mapping
        motion = np.array([self._axis(axis) for axis in m.axes])
        if not np.isfinite(motion).all():
            return Intent(False, np.zeros(6))
        gripper = 1.0 if self._pressed(m.open) else 0.0 if self._pressed(m.close) else None
        return Intent(self._pressed(m.deadman), motion, gripper, self._pressed(m.stop), self._pressed(m.tool) or None)

    def close(self) -> None:
        self._heard_s = None

    def _axis(self, axis: str) -> float:
        if not axis or int(axis[1:]) >= len(self._axes):
            return 0.0
        value = float(self._axes[int(axis[1:])])
        if not np.isfinite(value):
            return value
        size = min(max(abs(value) - DEADZONE, 0.0) / (1.0 - DEADZONE), 1.0)
        return float(np.copysign(size, value)) * (1.0 if axis[0] == "+" else -1.0)

    def _pressed(self, button: int) -> bool:
        return button < len(self._buttons) and bool(self._buttons[button])


def _is_axis(text: str) -> bool:
    return text == "" or (text[0] in "+-" and text[1:].isdecimal())
