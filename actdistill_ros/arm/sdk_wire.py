"""What driver, guard and SDK process say to each other, one message per packet of a Unix socket.

Commands go driver → guard → SDK process, heartbeats and feedback the other way. Words (readiness, faults, the end) are
JSON. Times are monotonic seconds, which all processes of a machine share.
"""

from __future__ import annotations

import json
import socket
import struct

DAMP, FOLLOW, HOLD = 0, 1, 2
"""What a command asks for: no position, these positions, or the positions commanded last."""

COMMAND = struct.Struct("<cBQd6d6dd")
"""b"C", what, sequence number, time it was sent, six positions [rad], six velocities [rad/s], gripper
opening"""

NOWHERE = (0.0,) * 13
"""What follows the time in a command that needs no target."""

HEARTBEAT = struct.Struct("<cQdd")
"""b"H", sequence number of the command done last, time, share of the gains in force (0: damping)"""

FEEDBACK = struct.Struct("<cQQd7d7d7d7d")
"""b"F", sequence number, that of the command done last, time it was sent; for seven motors: time of the newest answer
(0: never), position [rad], velocity [rad/s], torque [Nm]"""


def give(connection: socket.socket, message: bytes) -> bool:
    """Send without waiting; False if the other side is gone or does not read."""
    try:
        connection.send(message)
    except OSError:
        return False
    return True


def words(**body) -> bytes:
    return json.dumps(body).encode()


def take(connection: socket.socket) -> bytes | None:
    """The next message of a non-blocking socket; None if there is none now, empty if the other side is gone."""
    try:
        return connection.recv(65536)
    except BlockingIOError:
        return None
    except OSError:
        return b""
