"""How the world looks and rubs: light, colours, texture, camera poses and friction drawn from a seed."""

from __future__ import annotations

import mujoco
import numpy as np

from actdistill_ros.sim import layout
from actdistill_ros.sim.scene import look_at

# (weak, strong) half-widths of what is drawn.
LIGHT = (0.15, 0.45)
BLOCK_COLOUR = (0.03, 0.07)
TABLE_COLOUR = (0.06, 0.35)
TEXTURE_REPEAT = ((10.0, 10.0), (3.0, 24.0))  # ranges: squares of the table's pattern
FRONT_CAMERA_M = (0.002, 0.020)
WRIST_CAMERA_M = (0.001, 0.003)
FRICTION = (0.10, 0.25)


def randomise(model: mujoco.MjModel, rng: np.random.Generator, strong: bool) -> None:
    """Draw every look and the friction anew, starting from the nominal model each time."""
    k = int(strong)
    _lights(model, rng, LIGHT[k])
    for name, rgb in layout.COLOURS.items():
        model.geom(name).rgba[:3] = np.clip(np.array(rgb) + rng.uniform(-1, 1, 3) * BLOCK_COLOUR[k], 0, 1)
    model.mat("table").rgba[:3] = np.clip(1 + rng.uniform(-1, 1, 3) * TABLE_COLOUR[k], 0.3, 1.6)
    model.mat_texrepeat[model.mat("table").id] = rng.uniform(*TEXTURE_REPEAT[k])
    model.geom("floor").rgba[:3] = np.clip(
        np.array([0.35, 0.37, 0.40]) + rng.uniform(-1, 1, 3) * TABLE_COLOUR[k] / 2, 0, 1
    )
    _front_camera(model, rng, FRONT_CAMERA_M[k])
    wrist = model.cam("wrist").id
    model.cam_pos[wrist] = layout.WRIST_POSITION_M + rng.uniform(-1, 1, 3) * WRIST_CAMERA_M[k]
    rub = 1 + rng.uniform(-1, 1) * FRICTION[k]
    for name, nominal in (("table", 0.8), *((block, 1.0) for block in layout.BLOCKS)):
        model.geom_friction[model.geom(name).id, 0] = nominal * rub


def _lights(model: mujoco.MjModel, rng: np.random.Generator, spread: float) -> None:
    for name, diffuse, direction in (("key", 0.45, (0, 0.35, -1)), ("fill", 0.2, (0, -0.6, -1))):
        light = model.light(name).id
        model.light_diffuse[light] = diffuse * (1 + rng.uniform(-1, 1) * spread)
        model.light_dir[light] = np.array(direction) + rng.uniform(-1, 1, 3) * spread * 0.8
        model.light_dir[light] /= np.linalg.norm(model.light_dir[light])
    brightness = 0.35 * (1 + rng.uniform(-1, 1) * spread * 0.7)
    model.vis.headlight.ambient[:] = brightness
    model.vis.headlight.diffuse[:] = brightness


def _front_camera(model: mujoco.MjModel, rng: np.random.Generator, spread_m: float) -> None:
    position = layout.FRONT_POSITION_M + rng.uniform(-1, 1, 3) * spread_m
    target = layout.FRONT_LOOK_AT_M + rng.uniform(-1, 1, 3) * spread_m * 0.5
    x_axis, y_axis = look_at(position, target, np.array([0.0, 0.0, 1.0]))
    rotation = np.stack([x_axis, y_axis, np.cross(x_axis, y_axis)], axis=1)
    front = model.cam("front").id
    model.cam_pos[front] = position
    mujoco.mju_mat2Quat(model.cam_quat[front], rotation.ravel())
