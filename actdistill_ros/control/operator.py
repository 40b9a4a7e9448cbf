"""What the operator's teleop said last, how old that is, and whether the dead-man is held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.control.settings import DriverSettings

NEVER_S = float("-inf")


@dataclass(frozen=True)
class Twist:
    """Wanted motion of the TCP: linear_m_s, angular_rad_s (3,), in `base_link` or in the TCP's own frame."""

    linear_m_s: np.ndarray
    angular_rad_s: np.ndarray
    in_tool: bool
    stamp_s: float


def twist_refusal(twist: Twist, now_s: float, settings: DriverSettings) -> str:
    """Why this twist must not move the arm; empty if it may. One that is too fast may: it is slowed down."""
    if not (np.isfinite(twist.linear_m_s).all() and np.isfinite(twist.angular_rad_s).all()):
        return f"twist is not finite: {twist.linear_m_s} m/s, {twist.angular_rad_s} rad/s"
    if not np.isfinite(twist.stamp_s) or twist.stamp_s <= 0.0:
        return f"stamp is {twist.stamp_s:g}, expected the time of sending: make the publisher fill header.stamp"
    if twist.stamp_s - now_s > settings.clock_skew_s:
        return f"stamp is {twist.stamp_s - now_s:.3f} s in the future: use one clock for all machines"
    if now_s - twist.stamp_s > settings.teleop_timeout_s:
        return f"stale twist: {now_s - twist.stamp_s:.2f} s old, expected at most {settings.teleop_timeout_s} s"
    return ""


class Operator:
    """Twist and dead-man with their ages. A dead-man that was held through a stop counts only once it was let go."""

    def __init__(self, settings: DriverSettings) -> None:
        self._timeout_s = settings.teleop_timeout_s
        self._twist: Twist | None = None
        self._twist_s = self._held_s = self._heard_s = NEVER_S
        self._trusted = False

    def hear_twist(self, twist: Twist, now_s: float) -> None:
        self._twist, self._twist_s, self._heard_s = twist, now_s, now_s

    def hear_deadman(self, held: bool, now_s: float) -> None:
        self._heard_s = now_s
        if held:
            self._held_s = now_s
        else:
            self._held_s, self._trusted = NEVER_S, True

    def distrust(self) -> None:
        """Whatever is held now must be let go before it counts."""
        if self._held_s > NEVER_S:
            self._trusted, self._held_s = False, NEVER_S

    def expect(self, now_s: float) -> None:
        """Silence counts from now on."""
        self._heard_s = now_s

    def holds(self, now_s: float) -> bool:
        """Whether the dead-man is held now."""
        return self._trusted and abs(now_s - self._held_s) <= self._timeout_s

    def twist(self, now_s: float, tool_in_base: np.ndarray) -> np.ndarray:
        """(6,) wanted twist in `base_link` [m/s, rad/s]; zero if none is fresh. tool_in_base: (3, 3)."""
        if self._twist is None or abs(now_s - self._twist_s) > self._timeout_s:
            return np.zeros(6)
        parts = (self._twist.linear_m_s, self._twist.angular_rad_s)
        return np.concatenate([tool_in_base @ part if self._twist.in_tool else part for part in parts])

    def silent_s(self, now_s: float) -> float:
        return now_s - self._heard_s
