"""Frames of a camera in the simulated world, over the world's camera socket."""

from __future__ import annotations

from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from actdistill_ros.camera.source import CameraError, Frame, Intrinsics
from actdistill_ros.sim import protocol

_ANSWER_S = 5.0


class SimCamera:
    """One named camera of the simulated world; a `FrameSource`. The world stamps each frame when it renders it."""

    def __init__(self, endpoint: Path, name: str) -> None:
        self._address = protocol.endpoint(Path(endpoint), protocol.CAMERA)
        self._name = name
        self._connection: Connection | None = None

    def open(self) -> Intrinsics:
        try:
            self._connection = Client(self._address, family="AF_UNIX")
            protocol.send_json(self._connection, {"camera": self._name})
            answer = (
                protocol.recv_json(self._connection) if self._connection.poll(_ANSWER_S) else {"error": "no answer"}
            )
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise CameraError(
                f"camera {self._name}: no simulated world answers at {self._address} ({error or 'hung up'}); "
                "start sim_world"
            ) from error
        if "error" in answer:
            self.close()
            raise CameraError(f"camera {self._name}: {answer['error']}")
        return Intrinsics(*(answer[key] for key in ("height", "width", "fx", "fy", "cx", "cy")))

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
            raise CameraError(
                f"the simulated world gives no frames of {self._name} any more (unplugged, or ended)"
            ) from error
        stamp_s, height, width = protocol.FRAME.unpack_from(body)
        pixels = np.frombuffer(body, np.uint8, offset=protocol.FRAME.size)
        return Frame(pixels.reshape(height, width, 3), stamp_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
