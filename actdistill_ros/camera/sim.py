"""Frames of a camera in the simulated world, over the world's camera socket."""

from __future__ import annotations

import json
import math
from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from actdistill_ros.camera.source import CameraError, Frame, Intrinsics
from actdistill_ros.sim import layout, protocol

FIELD_OF_VIEW_DEG = {"front": layout.FRONT_FOVY_DEG, "wrist": layout.WRIST_FOVY_DEG}
"""Vertical field of view of each camera that the world has."""

_FIRST_FRAME_S = 5.0


class SimCamera:
    """One named camera of the simulated world; a `FrameSource`. The world stamps each frame when it renders it."""

    def __init__(self, endpoint: Path, name: str, fps: float = 30.0) -> None:
        self._address = protocol.endpoint(Path(endpoint), protocol.CAMERA)
        self._name, self._fps = name, fps
        self._connection: Connection | None = None

    def open(self) -> Intrinsics:
        if self._name not in FIELD_OF_VIEW_DEG:
            raise CameraError(f"the simulated world has no camera {self._name!r}; it has {', '.join(FIELD_OF_VIEW_DEG)}")
        try:
            self._connection = Client(self._address, family="AF_UNIX")
            protocol.send_json(self._connection, {"camera": self._name, "fps": self._fps})
        except (OSError, EOFError) as error:
            self.close()
            raise CameraError(
                f"camera {self._name}: no simulated world answers at {self._address} ({error}); start sim_world"
            ) from error
        frame = self.read(_FIRST_FRAME_S)
        if frame is None:
            raise CameraError(f"camera {self._name}: the simulated world sent no frame within {_FIRST_FRAME_S:g} s")
        return pinhole(*frame.image.shape[:2], FIELD_OF_VIEW_DEG[self._name])

    def read(self, timeout_s: float) -> Frame | None:
        if self._connection is None:
            raise CameraError(f"camera {self._name} is not open")
        try:
            if not self._connection.poll(timeout_s):
                return None
            body = self._connection.recv_bytes()
            while self._connection.poll(0):
                body = self._connection.recv_bytes()
        except (OSError, EOFError) as error:
            raise CameraError(f"camera {self._name}: the simulated world is gone; it is connected again by itself") from error
        return self._frame(body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _frame(self, body: bytes) -> Frame:
        if len(body) >= protocol.FRAME.size:
            stamp_s, height, width = protocol.FRAME.unpack_from(body)
            if len(body) == protocol.FRAME.size + height * width * 3:
                pixels = np.frombuffer(body, np.uint8, offset=protocol.FRAME.size)
                return Frame(pixels.reshape(height, width, 3), stamp_s)
        raise CameraError(f"camera {self._name}: {_refusal(body)}")


def pinhole(height: int, width: int, fovy_deg: float) -> Intrinsics:
    """Square pixels, centred; pixel centres at whole numbers."""
    focal = height / 2.0 / math.tan(math.radians(fovy_deg) / 2.0)
    return Intrinsics(height, width, focal, focal, (width - 1) / 2.0, (height - 1) / 2.0)


def _refusal(body: bytes) -> str:
    """What the world said instead of a frame."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{len(body)} bytes are no frame; sim_world and this package are of different versions"
