"""Kinematics of the ARX arms: link chains from the vendor URDFs' numbers, pose of the TCP, Jacobian, inverse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.pose import rotation_vector, skew

JOINT_AXES = np.array([[0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)
"""(6, 3) of both models, in each link's frame."""
_CROSS = np.array([skew(axis) for axis in JOINT_AXES])  # (6, 3, 3)
_CROSS2 = _CROSS @ _CROSS

ORIENTATION_WEIGHT_M = 0.2
"""How many metres a radian is worth when the inverse trades position against orientation."""


@dataclass(frozen=True)
class Solution:
    """Joints for a TCP pose and how far their pose is from it; always inside the joint limits."""

    q: np.ndarray
    position_error_m: float
    rotation_error_rad: float


@dataclass(frozen=True, eq=False)
class Chain:
    """Six joints in a row; two chains are the same only if they are the same object.

    link_origins_m: (6, 3) origin of each joint in its parent link [m]. link_rolls_rad: (6,) roll of each joint frame in
    its parent link [rad]. tcp_in_link6_m: (3,) [m].
    """

    link_origins_m: np.ndarray
    link_rolls_rad: np.ndarray
    tcp_in_link6_m: np.ndarray

    def __post_init__(self) -> None:
        for numbers in (self.link_origins_m, self.link_rolls_rad, self.tcp_in_link6_m):
            numbers.setflags(write=False)

    @cached_property
    def _rolls(self) -> np.ndarray:
        """(6, 3, 3)"""
        return np.array(
            [[[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]] for a in self.link_rolls_rad]
        )

    def link_frames(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (6, 3, 3) and origin (6, 3) [m] of links 1…6 in `base_link` for joints q (6,) [rad]."""
        sin, cos = np.sin(q), np.cos(q)
        local = self._rolls @ (np.eye(3) + sin[:, None, None] * _CROSS + (1.0 - cos)[:, None, None] * _CROSS2)
        rotations, origins = np.empty((6, 3, 3)), np.empty((6, 3))
        rotation, origin = np.eye(3), np.zeros(3)
        for i in range(6):
            origin = origin + rotation @ self.link_origins_m[i]
            rotation = rotation @ local[i]
            rotations[i], origins[i] = rotation, origin
        return rotations, origins

    def forward(self, q: np.ndarray) -> ArmPose:
        """TCP pose in `base_link` for joints q (6,) [rad]."""
        rotations, origins = self.link_frames(q)
        return ArmPose(origins[5] + rotations[5] @ self.tcp_in_link6_m, rotations[5])

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """(6, 6): TCP linear velocity [m/s] over angular velocity [rad/s], in `base_link`, per joint velocity
        [rad/s]."""
        return self._pose_and_jacobian(q)[1]

    def many_link_frames(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`link_frames` of each row of q (T, 6) [rad], in a fraction of the time: (T, 6, 3, 3) and (T, 6, 3) [m]."""
        sin, cos = np.sin(q)[..., None, None], np.cos(q)[..., None, None]
        local = self._rolls @ (np.eye(3) + sin * _CROSS + (1.0 - cos) * _CROSS2)  # (T, 6, 3, 3)
        rotations, origins = np.empty((len(q), 6, 3, 3)), np.empty((len(q), 6, 3))
        rotations[:, 0], origins[:, 0] = local[:, 0], self.link_origins_m[0]
        for i in range(1, 6):
            origins[:, i] = origins[:, i - 1] + rotations[:, i - 1] @ self.link_origins_m[i]
            rotations[:, i] = rotations[:, i - 1] @ local[:, i]
        return rotations, origins

    def tcp_positions(self, rotations: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """(T, 3) [m] in `base_link`, from what `many_link_frames` gives."""
        return origins[:, 5] + rotations[:, 5] @ self.tcp_in_link6_m

    def jacobians(self, q: np.ndarray) -> np.ndarray:
        """(T, 6, 6): `jacobian` of each row of q (T, 6) [rad], in a fraction of the time."""
        rotations, origins = self.many_link_frames(q)
        axes = np.einsum("tnij,nj->tin", rotations, JOINT_AXES)  # (T, 3, 6)
        arm = (self.tcp_positions(rotations, origins)[:, None, :] - origins).transpose(0, 2, 1)  # (T, 3, 6)
        linear = np.roll(axes, -1, 1) * np.roll(arm, -2, 1) - np.roll(axes, -2, 1) * np.roll(arm, -1, 1)
        return np.concatenate([linear, axes], axis=1)

    def _pose_and_jacobian(self, q: np.ndarray) -> tuple[ArmPose, np.ndarray]:
        rotations, origins = self.link_frames(q)
        tcp = origins[5] + rotations[5] @ self.tcp_in_link6_m
        axes = np.einsum("nij,nj->ni", rotations, JOINT_AXES)  # (6, 3)
        arm = tcp - origins
        linear = np.stack(
            [
                axes[:, 1] * arm[:, 2] - axes[:, 2] * arm[:, 1],
                axes[:, 2] * arm[:, 0] - axes[:, 0] * arm[:, 2],
                axes[:, 0] * arm[:, 1] - axes[:, 1] * arm[:, 0],
            ]
        )
        return ArmPose(tcp, rotations[5]), np.concatenate([linear, axes.T])

    def solve(self, target: ArmPose, seed: np.ndarray, iterations: int = 30) -> Solution:
        """Joints near `seed` whose TCP pose is nearest to `target` (damped least squares inside the joint limits).

        The caller judges the remaining errors: an unreachable target gives the best joints found, never an exception.
        A step is accepted only if it lowers the error, so that the search cannot run away at a singularity.

        Raises ValueError if the target or the seed is not finite.
        """
        if not (
            np.all(np.isfinite(target.position_m))
            and np.all(np.isfinite(target.rotation))
            and np.all(np.isfinite(seed))
        ):
            raise ValueError("inverse kinematics needs a finite target and a finite seed")
        q = np.clip(seed, JOINT_MIN, JOINT_MAX)
        damping = 1e-6
        pose, matrix = self._pose_and_jacobian(q)
        error = _error(target, pose)
        for _ in range(iterations):
            if error @ error < 1e-14:
                break
            step, damping_used = _damped_step(matrix, error, damping), damping
            trial = np.clip(q + step, JOINT_MIN, JOINT_MAX)
            trial_pose, trial_matrix = self._pose_and_jacobian(trial)
            trial_error = _error(target, trial_pose)
            if trial_error @ trial_error < error @ error:
                q, matrix, error, damping = trial, trial_matrix, trial_error, max(damping_used * 0.2, 1e-9)
            else:
                damping = damping_used * 10.0
                if damping > 1e3:
                    break
        return Solution(q, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]) / ORIENTATION_WEIGHT_M))


def _error(target: ArmPose, pose: ArmPose) -> np.ndarray:
    turn = rotation_vector(target.rotation @ pose.rotation.T)
    return np.concatenate([target.position_m - pose.position_m, ORIENTATION_WEIGHT_M * turn])


def _damped_step(matrix: np.ndarray, error: np.ndarray, damping: float) -> np.ndarray:
    weighted = matrix.copy()
    weighted[3:] *= ORIENTATION_WEIGHT_M
    step = np.linalg.solve(weighted.T @ weighted + damping * np.eye(6), weighted.T @ error)
    return step * min(1.0, 0.5 / max(float(np.max(np.abs(step))), 1e-9))


# The URDFs round π to 3.1416; the rounding is part of the robot, since the vendor solver has it too.
_FLIP = 3.1416
X5 = Chain(
    np.array(
        [
            [0.0, 0.0, 0.0603],
            [0.02, 0.0, 0.0402],
            [-0.264, 0.0, 0.0],
            [0.245, 0.0, -0.056],
            [0.06575, -0.001, -0.0825],
            [0.02845, 0.0, 0.0825],
        ]
    ),
    np.array([0.0, 0.0, -_FLIP, 0.0, 0.0, -_FLIP]),
    np.array([0.145, 0.0, 0.0]),
)
L5 = Chain(
    np.array(
        [
            [0.0, 0.0, 0.0565],
            [0.02, 0.0, 0.047],
            [-0.264, 0.0, 0.0],
            [0.245, 0.0, -0.06],
            [0.06775, -0.00005, -0.0865],
            [0.02895, 0.0, 0.0865],
        ]
    ),
    np.array([0.0, 0.0, _FLIP, 0.0, 0.0, _FLIP]),
    np.array([0.155, 0.0, 0.0]),
)
