"""Where things stand in the simulated world; constants only, so that tools without MuJoCo can read them."""

from __future__ import annotations

import numpy as np

TABLE_Z_M = -0.06  # table top in base_link: the arm stands on a 6 cm plate
BLOCK_SIDE_M = 0.04
BLOCK_MASS_KG = 0.05
COLOURS = {
    "red": (0.80, 0.10, 0.10),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.10, 0.20, 0.80),
    "yellow": (0.90, 0.78, 0.10),
}
BLOCKS = tuple(COLOURS)
BOWL_RADIUS_M = 0.055  # inner, at the bottom
BOWL_WALL_M = 0.030
DISTRACTORS = ("cylinder", "ball", "bar")

PLACE_X_M = (0.20, 0.39)  # where objects may start
PLACE_Y_M = (-0.19, 0.19)

CAMERAS = ("front", "wrist")
FRAME_PIXELS = 192
FRONT_POSITION_M = np.array([0.80, 0.0, 0.44])
FRONT_LOOK_AT_M = np.array([0.28, 0.0, -0.04])
FRONT_FOVY_DEG = 38.0
WRIST_POSITION_M = np.array([0.040, 0.0, 0.085])  # in link6
WRIST_LOOK_AT_M = np.array([0.160, 0.0, 0.015])  # in link6
WRIST_FOVY_DEG = 75.0

HOME_TCP_M = np.array([0.25, 0.0, 0.10])
GRIPPER_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""TCP axes in `base_link` when the gripper points straight down."""
