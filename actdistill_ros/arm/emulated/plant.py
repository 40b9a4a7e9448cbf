"""What the emulated motors turn: a simple model of seven joints, or the simulated world."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Protocol

import numpy as np

from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.frames import DM_TORQUE, EC_CURRENT, MODELS, Command, Motor
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.sim.protocol import ARM, COMMAND, DRIVE, FEEDBACK, MOTORS, endpoint

OPEN_READOUT_RAD = 5.03  # gripper motor at opening 1, in the vendor SDK's configuration
STEP_S = 0.0005
INERTIA = (0.30, 0.30, 0.20, 0.05, 0.03, 0.02, 0.003)  # [kg m²] about each axis, rough
FRICTION = (0.2, 0.2, 0.2, 0.05, 0.05, 0.05, 0.01)  # [Nm s/rad]
STOPS = (
    *((low - 0.02, high + 0.02) for low, high in zip(JOINT_MIN.tolist(), JOINT_MAX.tolist(), strict=True)),
    (0.0, OPEN_READOUT_RAD),
)
"""Where the mechanics end [rad]; a motor that was placed beyond gets no further out."""
RELAXED = Command(0.0, 0.0, 0.0, 0.0, 0.0)
WORLD_PERIOD_S = 0.004


def strength_nm(motor: Motor) -> float:
    """Torque at which the motor's scale ends."""
    return (DM_TORQUE if motor.kind.damiao else EC_CURRENT) * motor.kind.value[1]


class Plant(Protocol):
    """Seven motors by index, six joints and the gripper; times are monotonic seconds."""

    def drive(self, index: int, command: Command, now_s: float) -> None:
        """The motor's newest command, in force until the next one."""

    def look(self, index: int, now_s: float) -> tuple[float, float, float]:
        """Position [rad], velocity [rad/s], torque [Nm] of a motor now."""

    def place(self, index: int, position_rad: float) -> None:
        """Put a motor there at rest, as a hand would."""

    def tick(self, now_s: float) -> None:
        """Called about every 2 ms."""


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Nothing is said meanwhile, by C neither: the vendor's library advises its own developers, on a line without
    end."""
    flush, kept = ctypes.CDLL(None).fflush, (os.dup(1), os.dup(2))
    with open(os.devnull, "wb") as nowhere, contextlib.redirect_stdout(io.StringIO()):
        flush(None)
        try:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            flush(None)
            for number, own in enumerate(kept, 1):
                os.dup2(own, number)
                os.close(own)


class Gravity:
    """Torque that gravity puts on each joint, from the same model that the vendor SDK compensates with."""

    def __init__(self, model: str) -> None:
        import arx5_interface as sdk

        with muted():
            config = sdk.RobotConfigFactory.get_instance().get_config(model)
            self._solver = sdk.Arx5Solver(
                config.urdf_path,
                config.joint_dof,
                config.joint_pos_min,
                config.joint_pos_max,
                config.base_link_name,
                config.eef_link_name,
                config.gravity_vector,
            )
        self._still = np.zeros(6)

    def torque(self, position_rad: np.ndarray) -> np.ndarray:
        """(6,) torque that holds the arm still at (6,) joint positions [Nm]."""
        return np.asarray(self._solver.inverse_dynamics(position_rad, self._still, self._still))


class JointModel:
    """Each motor turns an inertia of its own, with friction and gravity; integrated when somebody looks."""

    def __init__(self, model: str, start_rad: tuple[float, ...]) -> None:
        """start_rad: 7 positions, the gripper's in motor radians."""
        self._gravity = Gravity(model)
        self._strength = [strength_nm(motor) for motor in MODELS[model]]
        self._q, self._v, self._t = list(start_rad), [0.0] * 7, [0.0] * 7
        self._commands = [RELAXED] * 7
        self._load = [0.0] * 7
        self._weighed_s = 0.0

    def drive(self, index: int, command: Command, now_s: float) -> None:
        self._advance(index, now_s)
        self._t[index] = now_s  # until its first command a joint rests where it is
        self._commands[index] = command

    def look(self, index: int, now_s: float) -> tuple[float, float, float]:
        self._advance(index, now_s)
        command, q, v = self._commands[index], self._q[index], self._v[index]
        torque = command.kp * (command.position_rad - q) + command.kd * (command.velocity_rad_s - v) + command.torque_nm
        return q, v, min(max(torque, -self._strength[index]), self._strength[index])

    def place(self, index: int, position_rad: float) -> None:
        self._q[index], self._v[index] = position_rad, 0.0

    def tick(self, now_s: float) -> None:
        for index in range(7):
            self._advance(index, now_s)

    def _advance(self, index: int, now_s: float) -> None:
        last = self._t[index]
        if not last or now_s <= last:
            return
        self._t[index] = now_s
        if now_s - self._weighed_s > 0.002:
            self._weighed_s = now_s
            self._load[:6] = self._gravity.torque(np.array(self._q[:6])).tolist()
        command, q, v, load = self._commands[index], self._q[index], self._v[index], self._load[index]
        kp, kd, target, most = command.kp, command.kd, command.position_rad, self._strength[index]
        feed = command.kd * command.velocity_rad_s + command.torque_nm
        steps = max(1, int((now_s - last) / STEP_S + 0.5))
        step = (now_s - last) / steps
        per, friction = step / INERTIA[index], FRICTION[index]
        low, high = min(STOPS[index][0], q), max(STOPS[index][1], q)
        for _ in range(min(steps, 4000)):
            torque = kp * (target - q) - kd * v + feed
            v += per * (min(max(torque, -most), most) - load - friction * v)
            q += step * v
            if not low < q < high:
                q, v = min(max(q, low), high), 0.0
        self._q[index], self._v[index] = q, v


class WorldPlant:
    """The simulated world's motors, driven by gains and torques instead of position targets."""

    def __init__(self, model: str, folder: Path) -> None:
        """Raises ArmError if no world serves `folder`, or its arm is another model."""
        if model != ARM:
            raise ArmError(f"model is {model}, but the arm in the simulated world is an {ARM}: leave the world out")
        path = endpoint(folder, MOTORS)
        try:
            self._connection = Client(path, family="AF_UNIX")
        except OSError as error:
            raise ArmError(
                f"no simulated motors at {path} ({error.strerror}): start `sim_world --endpoint {folder}` first"
            ) from error
        self._gravity = Gravity(model)
        self._commands = [RELAXED] * 7
        self._asleep = set(range(6))
        self._q, self._v, self._torque, self._load = (np.zeros(6) for _ in range(4))
        self._gripper, self._asked_s, self._waiting = 0.0, -WORLD_PERIOD_S, False
        self.tick(0.0)
        if not self._connection.poll(2.0):
            raise ArmError(f"simulated motors at {path} do not answer within 2 s: is sim_world stuck or busy?")
        self.tick(0.0)

    def drive(self, index: int, command: Command, now_s: float) -> None:
        self._commands[index] = command
        self._asleep.discard(index)

    def look(self, index: int, now_s: float) -> tuple[float, float, float]:
        if index == 6:
            return self._gripper * OPEN_READOUT_RAD, 0.0, 0.0
        return float(self._q[index]), float(self._v[index]), float(self._torque[index])

    def place(self, index: int, position_rad: float) -> None:
        raise ValueError("the world's arm is placed by the world, not by the bus")

    def tick(self, now_s: float) -> None:
        """Raises EOFError or OSError when the world is gone."""
        while self._connection.poll():
            values = FEEDBACK.unpack(self._connection.recv_bytes())
            self._q, self._v, force = (np.array(values[1 + 6 * i : 7 + 6 * i]) for i in range(3))
            self._torque = force + self._load
            # The fingers' stops give way a little in the world; an arm's are steel, and the SDK trusts them to 5 mm.
            self._gripper, self._waiting = min(max(values[19], 0.0), 1.0), False
        if self._waiting or now_s - self._asked_s < WORLD_PERIOD_S:
            return
        self._asked_s, self._waiting = now_s, True
        if self._asleep:  # until its first command the arm rests where it is
            self._connection.send_bytes(COMMAND.pack(0, *self._q, self._gripper))
            return
        # The world's bodies weigh nothing, so the motors carry what the arm would weigh.
        self._load = self._gravity.torque(self._q)
        joints = self._commands[:6]
        push = [c.kp * c.position_rad + c.kd * c.velocity_rad_s + c.torque_nm for c in joints] - self._load
        gripper = self._commands[6]
        # A gripper without power presses on nothing: it is where it is.
        opening = gripper.position_rad / OPEN_READOUT_RAD if gripper.kp > 0.0 else self._gripper
        self._connection.send_bytes(DRIVE.pack(*(c.kp for c in joints), *(c.kd for c in joints), *push, opening))


def gripper_readout(opening: float) -> float:
    """Motor position [rad] at an opening of 0 closed … 1 open."""
    return opening * OPEN_READOUT_RAD
