"""The physics of one scene: motors, cameras, objects; stepped by whoever owns it, in simulated time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import mujoco
import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.sim import layout, scene


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides the future of the physics."""

    state: np.ndarray


class World:
    """One MuJoCo scene. Not thread-safe: the owner serialises `step`, `reset`-like writes and reads."""

    def __init__(self, meshes: Mapping[str, Path] = MappingProxyType({})) -> None:
        """meshes: what links look like, see `sim.meshes`. Raises ValueError if MuJoCo cannot read one."""
        self.model = mujoco.MjModel.from_xml_string(scene.mjcf(meshes))
        self.data = mujoco.MjData(self.model)
        names = [f"joint{i + 1}" for i in range(6)]
        self._q = np.array([self.model.joint(n).qposadr[0] for n in names])
        self._v = np.array([self.model.joint(n).dofadr[0] for n in names])
        self._fingers = np.array([self.model.joint(n).qposadr[0] for n in ("finger1", "finger2")])
        self._finger_v = np.array([self.model.joint(n).dofadr[0] for n in ("finger1", "finger2")])
        self._block_q = {n: self.model.joint(n).qposadr[0] for n in layout.BLOCKS}
        self._block_v = {n: self.model.joint(n).dofadr[0] for n in layout.BLOCKS}
        self._tcp = self.model.site("tcp").id
        self._state_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._gains = (self.model.actuator_gainprm.copy(), self.model.actuator_biasprm.copy())

    # -- motors
    def command(self, position_rad: np.ndarray, gripper: float) -> None:
        """Position targets (6,) [rad] and gripper opening, kept until the next command, as motors do."""
        self.data.ctrl[:6] = position_rad
        self.grip(gripper)

    def grip(self, gripper: float) -> None:
        """Gripper opening, kept until the next one."""
        self.data.ctrl[6] = gripper * scene.FINGER_TRAVEL_M

    def damp(self, on: bool) -> None:
        """With `on`, joint motors only damp (kp 0, kd as before); the gripper keeps its grip."""
        gain, bias = self._gains
        self.model.actuator_gainprm[:6, 0] = 0.0 if on else gain[:6, 0]
        self.model.actuator_biasprm[:6] = bias[:6]
        if on:
            self.model.actuator_biasprm[:6, 1] = 0.0

    def drive(self, kp: np.ndarray, kd: np.ndarray, torque_nm: np.ndarray) -> None:
        """Joint motors give `torque_nm` - kp q - kd v until told otherwise; all (6,). Ends at the next `damp`."""
        self.model.actuator_gainprm[:6, 0] = 0.0
        self.model.actuator_biasprm[:6, 0] = torque_nm
        self.model.actuator_biasprm[:6, 1] = -kp
        self.model.actuator_biasprm[:6, 2] = -kd

    def step(self, seconds: float) -> None:
        mujoco.mj_step(self.model, self.data, nstep=max(1, round(seconds / scene.TIMESTEP_S)))

    @property
    def q(self) -> np.ndarray:
        """(6,) measured joint positions [rad]."""
        return self.data.qpos[self._q].copy()

    @property
    def velocity(self) -> np.ndarray:
        """(6,) measured joint velocities [rad/s]."""
        return self.data.qvel[self._v].copy()

    @property
    def torque(self) -> np.ndarray:
        """(6,) actuator torques [Nm]."""
        return self.data.actuator_force[:6].copy()

    @property
    def gripper(self) -> float:
        """Measured opening, 0 closed … 1 open."""
        return float(np.mean(self.data.qpos[self._fingers]) / scene.FINGER_TRAVEL_M)

    @property
    def gripper_speed(self) -> float:
        """Measured speed of opening [openings/s]."""
        return float(np.mean(self.data.qvel[self._finger_v]) / scene.FINGER_TRAVEL_M)

    @property
    def tcp(self) -> ArmPose:
        """Measured TCP pose in `base_link`."""
        return ArmPose(self.data.site_xpos[self._tcp].copy(), self.data.site_xmat[self._tcp].reshape(3, 3).copy())

    @property
    def time_s(self) -> float:
        return float(self.data.time)

    # -- scene
    def set_joints(self, q: np.ndarray, gripper: float) -> None:
        """Put the arm there at rest, holding."""
        self.data.qpos[self._q] = q
        self.data.qpos[self._fingers] = gripper * scene.FINGER_TRAVEL_M
        self.data.qvel[:] = 0.0
        self.command(q, gripper)

    def place_block(self, name: str, x_m: float, y_m: float, yaw_rad: float, z_m: float | None = None) -> None:
        """Put a block at rest on the table (or at height z of its centre)."""
        z = layout.TABLE_Z_M + layout.BLOCK_SIDE_M / 2 if z_m is None else z_m
        start = self._block_q[name]
        self.data.qpos[start : start + 7] = [x_m, y_m, z, np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)]
        self.data.qvel[self._block_v[name] : self._block_v[name] + 6] = 0.0

    def place_fixed(self, name: str, x_m: float, y_m: float, z_m: float, yaw_rad: float = 0.0) -> None:
        """Put the bowl or a distractor there."""
        body = self.model.body(name).id
        self.model.body_pos[body] = [x_m, y_m, z_m]
        self.model.body_quat[body] = [np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)]

    def block(self, name: str) -> np.ndarray:
        """(3,) centre of a block in `base_link` [m]."""
        start = self._block_q[name]
        return self.data.qpos[start : start + 3].copy()

    def block_yaw(self, name: str) -> float:
        """Yaw of a block folded into ±π/4, since a cube looks the same every quarter turn [rad]."""
        w, x, y, z = self.data.qpos[self._block_q[name] + 3 : self._block_q[name] + 7]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return float((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4)

    def block_speed(self, name: str) -> float:
        """Speed of a block's centre [m/s]."""
        start = self._block_v[name]
        return float(np.linalg.norm(self.data.qvel[start : start + 3]))

    @property
    def bowl(self) -> np.ndarray:
        """(3,) centre of the bowl's bottom in `base_link` [m]."""
        return self.model.body("bowl").pos.copy()

    def settle(self) -> None:
        mujoco.mj_forward(self.model, self.data)

    def save(self) -> Snapshot:
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return Snapshot(state)

    def restore(self, snapshot: Snapshot) -> None:
        mujoco.mj_setState(self.model, self.data, snapshot.state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self.model, self.data)


class Eyes:
    """Renders a world's cameras off screen. One per thread: an OpenGL context belongs to the thread that made it."""

    def __init__(self, model: mujoco.MjModel, pixels: int = layout.FRAME_PIXELS) -> None:
        self._renderer = mujoco.Renderer(model, pixels, pixels)

    def see(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """(pixels, pixels, 3) uint8 RGB."""
        self.look(data, camera)
        return self.render()

    def look(self, data: mujoco.MjData, camera: str) -> None:
        """Take in the world as it is now; it may change before `render`."""
        self._renderer.update_scene(data, camera=camera)

    def render(self) -> np.ndarray:
        """(pixels, pixels, 3) uint8 RGB of what was last looked at."""
        return self._renderer.render()

    def close(self) -> None:
        self._renderer.close()
