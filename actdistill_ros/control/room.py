"""Where the arm may be: every motion, and the stop that could follow at each moment of it, is held to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.control.envelope import WORTH_SAYING_M
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_NAMES
from actdistill_ros.control.motion import MotionLimits, stopping_ways
from actdistill_ros.control.settings import DriverSettings

BORDER_M = WORTH_SAYING_M
"""The TCP may be this far beyond the border of the workspace on its way, and parts this much closer to each other."""
START_M = 0.0001
"""An arm that was switched on outside may be this much further out on its way in."""
POINTS = 4
"""At so many points of a stop the TCP is looked at; a stop takes 0.05 s at most, so that they are about a tick
apart."""


@dataclass(frozen=True)
class Room:
    """low_m, high_m: (3,) corners for the TCP in `base_link` [m]; apart_m: what parts of the arm keep between them.

    limits: those of the stop that could follow. Made anew only where the arm is put under power; it never grows.
    """

    settings: DriverSettings
    limits: MotionLimits
    low_m: np.ndarray
    high_m: np.ndarray
    apart_m: float

    @staticmethod
    def around(q: np.ndarray, settings: DriverSettings, limits: MotionLimits) -> Room:
        """The workspace, and for an arm that rests outside of it or too close to itself also where it is, q (6,)."""
        arm = settings.arm
        at, near_m = arm.chain.forward(q).position_m, arm.body.clearance(q, settings.table_z_m).distance_m
        return Room(
            settings,
            limits,
            np.minimum(settings.workspace_min_m - BORDER_M, at - START_M),
            np.maximum(settings.workspace_max_m + BORDER_M, at + START_M),
            min(settings.self_clearance_m - BORDER_M, near_m - START_M),
        )

    @property
    def whole(self) -> bool:
        """Whether it is the workspace and no more."""
        settings = self.settings
        return bool(
            self.apart_m >= settings.self_clearance_m - BORDER_M
            and (self.low_m >= settings.workspace_min_m - BORDER_M).all()
            and (self.high_m <= settings.workspace_max_m + BORDER_M).all()
        )

    def after(self, q: np.ndarray) -> Room:
        """Without what an arm leaves behind that was switched on outside and is now at q (6,) [rad]."""
        if self.whole:
            return self
        now = Room.around(q, self.settings, self.limits)
        return Room(
            self.settings,
            self.limits,
            np.maximum(self.low_m, now.low_m),
            np.minimum(self.high_m, now.high_m),
            max(self.apart_m, now.apart_m),
        )

    def refusal(self, q: np.ndarray, v: np.ndarray, a: np.ndarray) -> str:
        """Why the arm must not move like this; empty if it may.

        q [rad], v [rad/s], a [rad/s²]: (T, 6), moments of a motion. Each of them, and the stop from each, must be
        inside."""
        stops = q + stopping_ways(v, a, self.limits, POINTS)  # (K, T, 6)
        beyond = np.maximum(JOINT_MIN - stops, stops - JOINT_MAX).max(axis=(0, 1))  # (6,)
        joint = int(np.argmax(beyond))
        if beyond[joint] > 1e-6:
            return f"{JOINT_NAMES[joint]} is at its limit"
        every = np.concatenate([stops.reshape(-1, 6), q])  # ((K+1)·T, 6)
        chain, body = self.settings.arm.chain, self.settings.arm.body
        rotations, origins = chain.many_link_frames(every)
        at = chain.tcp_positions(rotations, origins)  # ((K+1)·T, 3)
        outside = np.maximum(self.low_m - at, at - self.high_m)
        moment, axis = np.unravel_index(int(np.argmax(outside)), outside.shape)
        if outside[moment, axis] > 0.0:
            where = f"along {'xyz'[axis]}, at {at[moment, axis]:.3f} m"
            return f"the TCP is at the border of the workspace {where}"
        ends = slice(-2 * len(q), None)  # where the stops end, and the motion itself
        apart_m = body.clearances(rotations[ends], origins[ends], self.settings.table_z_m)  # (2·T,)
        closest = int(np.argmin(apart_m))
        if apart_m[closest] < self.apart_m:
            one, other = body.clearance(every[ends][closest], self.settings.table_z_m).between
            return (
                f"{one} and {other} would come within {1000 * apart_m[closest]:.0f} mm, expected at least "
                f"{1000 * self.settings.self_clearance_m:.0f} mm"
            )
        return ""
