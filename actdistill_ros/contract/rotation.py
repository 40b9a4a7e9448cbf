"""Rotations on SO(3): matrices, rotation vectors, quaternions."""

from __future__ import annotations

import numpy as np


def skew(v: np.ndarray) -> np.ndarray:
    """(3, 3) matrix of the cross product with v."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def from_rotation_vector(rotation_rad: np.ndarray) -> np.ndarray:
    """(3,) rotation vector [rad] to (3, 3) rotation matrix (Rodrigues)."""
    angle = float(np.sqrt(np.dot(rotation_rad, rotation_rad)))
    k = skew(rotation_rad)
    if angle < 1e-6:
        return np.eye(3) + k + 0.5 * k @ k
    return np.eye(3) + (np.sin(angle) / angle) * k + ((1.0 - np.cos(angle)) / angle**2) * (k @ k)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) rotation matrix to (3,) rotation vector [rad] with norm in [0, π]."""
    x, y, z, w = to_quaternion_xyzw(rotation)
    if w < 0.0:
        x, y, z, w = -x, -y, -z, -w
    norm = float(np.sqrt(x * x + y * y + z * z))
    if norm < 1e-12:
        return np.array([2.0 * x, 2.0 * y, 2.0 * z])
    return np.array([x, y, z]) * (2.0 * np.arctan2(norm, w) / norm)


def to_quaternion_xyzw(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) rotation matrix to (4,) unit quaternion, ROS order."""
    r = rotation
    four_squares = np.array(
        [
            1.0 + r[0, 0] - r[1, 1] - r[2, 2],
            1.0 - r[0, 0] + r[1, 1] - r[2, 2],
            1.0 - r[0, 0] - r[1, 1] + r[2, 2],
            1.0 + r[0, 0] + r[1, 1] + r[2, 2],
        ]
    )
    largest = int(np.argmax(four_squares))
    s = 2.0 * np.sqrt(four_squares[largest])
    off = (r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1])
    on = (r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1])
    if largest == 3:
        q = np.array([off[0] / s, off[1] / s, off[2] / s, s / 4])
    elif largest == 0:
        q = np.array([s / 4, on[0] / s, on[1] / s, off[0] / s])
    elif largest == 1:
        q = np.array([on[0] / s, s / 4, on[2] / s, off[1] / s])
    else:
        q = np.array([on[1] / s, on[2] / s, s / 4, off[2] / s])
    return q / np.linalg.norm(q)


def from_quaternion_xyzw(quaternion: np.ndarray) -> np.ndarray:
    """(4,) quaternion, ROS order, to (3, 3) rotation matrix. Raises ValueError if it has no direction."""
    norm = float(np.linalg.norm(quaternion))
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"quaternion {quaternion} has norm {norm}, expected 1")
    x, y, z, w = np.asarray(quaternion, dtype=float) / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def orthonormal(rotation: np.ndarray) -> np.ndarray:
    """Nearest rotation matrix, so that thousands of composed deltas stay a rotation."""
    u, _, vt = np.linalg.svd(rotation)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
