"""Limits of the ARX X5, from the vendor SDK's configuration (the vendor URDF's differ and are not used)."""

from __future__ import annotations

import numpy as np

JOINT_NAMES = ("joint1", "joint2", "joint3", "joint4", "joint5", "joint6")
JOINT_MIN = np.array([-3.14, -0.05, -0.1, -1.6, -1.57, -2.0])  # [rad]
JOINT_MAX = np.array([2.618, 3.5, 3.2, 1.55, 1.57, 2.0])  # [rad]
JOINT_VELOCITY_MAX = np.array([5.0, 5.0, 5.5, 5.5, 5.0, 5.0])  # [rad/s]
JOINT_TORQUE_MAX = np.array([30.0, 40.0, 30.0, 15.0, 10.0, 10.0])  # [Nm]
GRIPPER_WIDTH_M = 0.088  # jaw at opening 1
GRIPPER_SPEED_M_S = 0.3

for _limit in (JOINT_MIN, JOINT_MAX, JOINT_VELOCITY_MAX, JOINT_TORQUE_MAX):
    _limit.setflags(write=False)
