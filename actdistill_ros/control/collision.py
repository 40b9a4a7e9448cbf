"""How close an arm is to itself and to the table: capsules around its links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actdistill_ros.control.kinematics import Chain


@dataclass(frozen=True)
class Capsule:
    """From `start` to `end` [m] in the frame of `link` (0 is the base), `radius_m` thick."""

    name: str
    link: int
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius_m: float


CAPSULES = (
    Capsule("base", 0, (0.0, 0.0, 0.01), (0.0, 0.0, 0.05), 0.05),
    Capsule("shoulder", 2, (0.0, -0.034, 0.0), (0.0, 0.036, 0.0), 0.032),
    Capsule("upper arm", 2, (0.0, -0.012, 0.0), (-0.264, -0.012, 0.0), 0.031),
    Capsule("upper arm", 2, (0.0, 0.012, 0.0), (-0.264, 0.012, 0.0), 0.031),
    Capsule("elbow", 3, (0.0, -0.036, 0.0), (0.0, 0.036, 0.0), 0.032),
    Capsule("elbow bracket", 3, (0.025, -0.02, -0.048), (0.025, 0.02, -0.048), 0.045),
    Capsule("forearm", 3, (0.02, 0.0, -0.052), (0.245, 0.0, -0.059), 0.039),
    Capsule("wrist", 4, (0.0, -0.032, 0.0), (0.0, 0.032, 0.0), 0.030),
    Capsule("wrist yoke", 4, (0.025, -0.026, 0.0), (0.025, 0.026, 0.0), 0.022),
    Capsule("wrist bracket", 4, (0.03, 0.0, -0.015), (0.06, 0.0, -0.06), 0.032),
    Capsule("hand", 5, (0.0, 0.0, 0.012), (0.0, 0.0, 0.09), 0.035),
    Capsule("flange", 6, (0.0, 0.0, 0.0), (0.05, 0.0, 0.0), 0.03),
    Capsule("palm", 6, (0.07, -0.062, 0.0), (0.07, 0.062, 0.0), 0.034),
    Capsule("fingers", 6, (0.12, -0.036, 0.0), (0.12, 0.036, 0.0), 0.036),
)
"""Of both models, whose links differ by millimetres. Nothing of the arms' published meshes, the gripper open or closed,
is more than 6 mm outside, and `self_clearance_m` is more than that."""
NEAR_TABLE = ("elbow", "elbow bracket", "forearm", "wrist", "wrist yoke", "wrist bracket", "hand", "flange", "palm")
"""What must stay above the table; the fingers reach down to it, and the TCP has a limit of its own."""
MOVES_AGAINST = {
    "forearm": ("base",),
    "wrist": ("base", "shoulder", "upper arm"),
    "wrist yoke": ("base", "shoulder", "upper arm"),
    "wrist bracket": ("base", "shoulder", "upper arm"),
    "hand": ("base", "shoulder", "upper arm"),
    "flange": ("base", "shoulder", "upper arm"),
    "palm": ("base", "shoulder", "upper arm"),
    "fingers": ("base", "shoulder", "upper arm"),
}
"""Pairs that can meet; the rest are neighbours in the chain or kept apart by the joint limits."""


@dataclass(frozen=True)
class Clearance:
    """distance_m: of the closest pair, negative if they overlap; between: their names."""

    distance_m: float
    between: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Body:
    """The capsules of an arm, those of the base first, and the chain that moves them."""

    chain: Chain
    capsules: tuple[Capsule, ...]

    def clearance(self, q: np.ndarray, table_z_m: float) -> Clearance:
        """The closest two parts of the arm, or part and table, at joints q (6,) [rad]."""
        apart, above = self._distances(*self.chain.link_frames(q), table_z_m)
        pair, low = int(np.argmin(apart)), int(np.argmin(above))
        if above[low] < apart[pair]:
            return Clearance(float(above[low]), (self.capsules[self._low[low]].name, "table"))
        a, b = self._pairs[pair]
        return Clearance(float(apart[pair]), (self.capsules[a].name, self.capsules[b].name))

    def clearances(self, rotations: np.ndarray, origins: np.ndarray, table_z_m: float) -> np.ndarray:
        """(T,) the distance of `clearance` [m] for many poses of the arm at once, given their `many_link_frames`."""
        apart, above = self._distances(rotations, origins, table_z_m)
        return np.minimum(apart.min(axis=-1), above.min(axis=-1))

    def _distances(self, rotations: np.ndarray, origins: np.ndarray, table_z_m: float) -> tuple[np.ndarray, np.ndarray]:
        """Between pairs (..., P) and above the table (..., L) [m], for links at rotations (..., 6, 3, 3), origins
        (..., 6, 3)."""
        ends, pairs = self._place(rotations, origins), self._pairs
        first, second = ends[..., pairs[:, 0], :, :], ends[..., pairs[:, 1], :, :]
        between = _between(first[..., 0, :], first[..., 1, :], second[..., 0, :], second[..., 1, :])  # (..., P)
        above = ends[..., 2][..., self._low, :].min(axis=-1) - self._radii[self._low] - table_z_m  # (..., L)
        return between - self._reach, above

    def _place(self, rotations: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """(..., C, 2, 3) ends of the capsules in `base_link` [m]."""
        fixed, moving = self._ends[: self._fixed], self._moving
        at = origins[..., moving, None, :] + self._ends[self._fixed :] @ rotations[..., moving, :, :].swapaxes(-1, -2)
        return np.concatenate([np.broadcast_to(fixed, (*origins.shape[:-2], *fixed.shape)), at], axis=-3)

    @cached_property
    def _pairs(self) -> np.ndarray:
        """(P, 2) which capsules can meet."""
        names = [capsule.name for capsule in self.capsules]
        return np.array(
            [
                (i, j)
                for i, name in enumerate(names)
                for j, other in enumerate(names)
                if other in MOVES_AGAINST.get(name, ())
            ]
        )

    @cached_property
    def _low(self) -> np.ndarray:
        return np.array([i for i, capsule in enumerate(self.capsules) if capsule.name in NEAR_TABLE])

    @cached_property
    def _fixed(self) -> int:
        """How many do not move: those of the base."""
        return sum(capsule.link == 0 for capsule in self.capsules)

    @cached_property
    def _moving(self) -> np.ndarray:
        return np.array([capsule.link - 1 for capsule in self.capsules[self._fixed :]])

    @cached_property
    def _ends(self) -> np.ndarray:
        """(C, 2, 3)"""
        return np.array([(capsule.start, capsule.end) for capsule in self.capsules])

    @cached_property
    def _radii(self) -> np.ndarray:
        return np.array([capsule.radius_m for capsule in self.capsules])

    @cached_property
    def _reach(self) -> np.ndarray:
        return self._radii[self._pairs].sum(axis=1)  # (P,)


def _between(p1: np.ndarray, q1: np.ndarray, p2: np.ndarray, q2: np.ndarray) -> np.ndarray:
    """(..., P) distances of the segments p1-q1 and p2-q2, all (..., P, 3)."""
    d1, d2, r = q1 - p1, q2 - p2, p1 - p2
    a, e, b = _dot(d1, d1), _dot(d2, d2), _dot(d1, d2)
    c, f = _dot(d1, r), _dot(d2, r)
    determinant = a * e - b * b
    skew = determinant > 1e-12
    s = np.where(skew, np.clip((b * f - c * e) / np.where(skew, determinant, 1.0), 0.0, 1.0), 0.0)
    t = (b * s + f) / e
    # Where the nearest point of the second lies beyond its end, that end decides the point of the first.
    s = np.where(t < 0.0, np.clip(-c / a, 0.0, 1.0), np.where(t > 1.0, np.clip((b - c) / a, 0.0, 1.0), s))
    t = np.clip(t, 0.0, 1.0)
    apart = r + d1 * s[..., None] - d2 * t[..., None]
    return np.sqrt(_dot(apart, apart))


def _dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.einsum("...j,...j->...", u, v)
