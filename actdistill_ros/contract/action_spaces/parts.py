"""What action spaces differ in: how a rotation is written, whose axes a delta is along, what a gripper is sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from actdistill_ros.contract.rotation import from_rotation_vector, rotation_vector


class Rotation(Enum):
    """How three numbers [rad] are a rotation.

    EULER: about the fixed x, then y, then z axis, R = Rz(yaw) Ry(pitch) Rx(roll); each delta is a rotation of its own,
    never a difference of two such triples.
    """

    VECTOR = "rotation vector"
    EULER = "roll, pitch, yaw about fixed axes"

    def matrix(self, numbers: np.ndarray) -> np.ndarray:
        """(3,) [rad] to (3, 3)."""
        return from_rotation_vector(numbers) if self is Rotation.VECTOR else _from_euler(numbers)

    def numbers(self, matrix: np.ndarray) -> np.ndarray:
        """(3, 3) to (3,) [rad]."""
        return rotation_vector(matrix) if self is Rotation.VECTOR else _to_euler(matrix)


class Frame(Enum):
    """Whose axes a delta is along. Either way the tool turns about its own centre point."""

    BASE = "base"
    TOOL = "tool"


class Reference(Enum):
    """What an action is measured from.

    PREVIOUS: the pose that the action before it commanded; ABSOLUTE: the base, so that the numbers are a pose.
    """

    PREVIOUS = "the action before"
    ABSOLUTE = "the base"


@dataclass(frozen=True)
class Gripper:
    """What is sent for a closed and for an open gripper; what lies between is linear, what lies outside is clipped.

    relative: the number is a push towards one of the two and 0 leaves the gripper as it is; a push counts from
    `threshold` on. binary: the gripper is only ever sent closed or open.
    """

    closed: float
    open: float
    relative: bool = False
    binary: bool = False
    threshold: float = 0.1

    def openings(self, sent: np.ndarray, start: float) -> np.ndarray:
        """(K,) numbers to openings 0 … 1, with the opening before the first of them."""
        share = (sent - self.closed) / (self.open - self.closed)  # 0 closed … 1 open; for a push 0.5 is none
        if not self.relative:
            return np.clip(share, 0.0, 1.0)
        openings, now = np.empty(len(sent)), start
        for i, value in enumerate(sent):
            now = now if abs(value) <= self.threshold else float(share[i] > 0.5)
            openings[i] = now
        return openings

    def sent(self, openings: np.ndarray, start: float) -> np.ndarray:
        """Inverse of `openings`; where `binary`, an opening above one half is open."""
        openings = (openings > 0.5).astype(float) if self.binary else openings
        if not self.relative:
            return self.closed + openings * (self.open - self.closed)
        before = np.concatenate([[float(start > 0.5) if self.binary else start], openings[:-1]])
        return (openings - before) * self.open


def _from_euler(angles: np.ndarray) -> np.ndarray:
    x, y, z = (from_rotation_vector(angle * axis) for angle, axis in zip(angles, np.eye(3), strict=True))
    return z @ y @ x


def _to_euler(matrix: np.ndarray) -> np.ndarray:
    """At pitch ±90° roll and yaw are one; roll is then 0."""
    cosine = np.hypot(matrix[0, 0], matrix[1, 0])
    pitch = np.arctan2(-matrix[2, 0], cosine)
    if cosine < 1e-9:
        return np.array([0.0, pitch, np.arctan2(-matrix[0, 1], matrix[1, 1])])
    return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])
