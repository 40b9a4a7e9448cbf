"""The wire between virtual hardware and its users: three Unix sockets in one folder; no MuJoCo here.

`motors.sock`  each command is answered by one feedback, as on a bus:
               COMMAND (enable, six joint targets, gripper opening) -> FEEDBACK (stamp, joints, gripper, fault codes);
               DRIVE (gains and torques) in place of COMMAND comes from an emulated bus.
`camera.sock`  the client names a camera once, {"camera": "front"}; the answer is its intrinsics (height, width, fx,
fy, cx, cy) or
               {"error": …}, as JSON; then frames follow (FRAME header + RGB bytes in one message) until either side
               closes.
`world.sock`   JSON requests and answers for whoever stages the scene: reset, verdict, status, inject.
Messages travel by `multiprocessing.connection` `send_bytes`/`recv_bytes`; nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
from multiprocessing.connection import Connection
from pathlib import Path

MOTORS, CAMERA, WORLD = "motors.sock", "camera.sock", "world.sock"
ARM = "X5"
"""The model of the arm in the simulated world."""

COMMAND = struct.Struct("<B7d")
"""enable (0 damping, 1 position), 6 joint targets [rad], gripper opening 0 closed … 1 open"""

DRIVE = struct.Struct("<6d6d6dd")
"""what an emulated bus sends instead of COMMAND: 6 kp [Nm/rad], 6 kd [Nm s/rad], 6 torques that the motors add to
-kp q - kd v [Nm], gripper opening"""

FEEDBACK = struct.Struct("<d6d6d6dd7B")
"""stamp [s since the epoch], 6 positions [rad], 6 velocities [rad/s], 6 torques [Nm], gripper opening, 7 fault codes"""

FRAME = struct.Struct("<d2I")
"""stamp [s since the epoch], height, width; RGB bytes follow"""

FAULTS = {
    0: "",
    1: "no answer",
    8: "over-voltage",
    9: "under-voltage",
    10: "over-current",
    11: "driver too hot",
    12: "coil too hot",
    14: "overload",
}
MOTOR_NAMES = ("joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "gripper")


def endpoint(folder: Path, name: str) -> str:
    """Socket path; the folder is kept short because Unix socket paths end at 107 bytes."""
    return str(folder / name)


def send_json(connection: Connection, body: dict) -> None:
    connection.send_bytes(json.dumps(body).encode())


def recv_json(connection: Connection) -> dict:
    return json.loads(connection.recv_bytes())
