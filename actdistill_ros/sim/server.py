"""`sim_world`: virtual hardware in a process of its own; motors, cameras and a stage hand on three Unix sockets."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from actdistill_ros.leave import leave
from actdistill_ros.sim import layout, meshes, protocol
from actdistill_ros.sim.cameras import CameraBank
from actdistill_ros.sim.rig import Rig
from actdistill_ros.sim.staging import SUITES, TASKS, StagingError

PHYSICS_S = 0.008  # physics is advanced in slices this long
OUTLIVE_S = 1.5  # how long the world goes on after SIGINT for those who still use it; SIGTERM ends it at once


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    patience, ended = OUTLIVE_S, False

    def end(number, _) -> None:
        # Plain variables: an Event's lock may be held by the very thread that the signal interrupts, for ever then.
        nonlocal patience, ended
        patience, ended = patience if number == signal.SIGINT else 0.0, True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        looks = meshes.find(args.meshes) if args.meshes else {}
        server = Server(args.endpoint, tuple(args.cameras.split(",")), args.fps, args.pixels, looks)
        server.rig.reset(args.suite, args.task, args.seed)
        server.start()
    except (OSError, StagingError, ValueError, RuntimeError) as error:
        print(f"sim_world: {error}", file=sys.stderr)
        return 2
    print("ready", flush=True)
    server.run(lambda: ended)
    server.outlive(lambda: patience)
    server.close()
    leave(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sim_world", description=__doc__)
    parser.add_argument("--endpoint", type=Path, required=True, help="folder for the sockets; one world per folder")
    parser.add_argument("--cameras", default=",".join(layout.CAMERAS))
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--pixels", type=int, default=layout.FRAME_PIXELS)
    parser.add_argument("--suite", choices=SUITES, default="tabletop")
    parser.add_argument("--task", choices=TASKS, default="bowl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--meshes", type=Path, help="folder of link1.stl …, drawn instead of the plain shapes")
    return parser


class Server:
    """Accepts clients and keeps physics at the pace of the wall clock."""

    def __init__(
        self, endpoint: Path, cameras: tuple[str, ...], fps: float, pixels: int, looks: Mapping[str, Path]
    ) -> None:
        """looks: meshes, see `World`. Raises OSError if the folder cannot hold the sockets, ValueError for an unknown
        camera or a mesh that cannot be read."""
        unknown = set(cameras) - set(layout.CAMERAS)
        if unknown:
            raise ValueError(
                f"no camera {', '.join(sorted(unknown))} in this world; it has {', '.join(layout.CAMERAS)}"
            )
        self.rig = Rig(meshes=looks)
        self.cameras = CameraBank(self.rig, cameras, fps, pixels)
        self._listeners = {name: _listen(endpoint, name) for name in (protocol.MOTORS, protocol.CAMERA, protocol.WORLD)}
        self._paths = [protocol.endpoint(endpoint, name) for name in self._listeners]

    def start(self) -> None:
        """Raises RuntimeError if this machine cannot render."""
        self.cameras.start()
        serve = {protocol.MOTORS: self._motors, protocol.CAMERA: self._camera, protocol.WORLD: self._world}
        for name, handler in serve.items():
            threading.Thread(target=_accept, args=(self._listeners[name], handler), daemon=True).start()

    def run(self, ended: Callable[[], bool]) -> None:
        """Physics until it has `ended`; late slices are made up for, up to a tenth of a second."""
        deadline = time.monotonic()
        while not ended():
            self.rig.advance(PHYSICS_S)
            deadline = max(deadline + PHYSICS_S, time.monotonic() - 0.1)
            time.sleep(max(0.0, deadline - time.monotonic()))

    def outlive(self, patience_s: Callable[[], float]) -> None:
        """Physics while somebody still uses motors or cameras, for `patience_s()` at most: Ctrl-C reaches all at once,
        and hardware does not vanish before the driver has let go of it."""
        start = time.monotonic()
        while time.monotonic() - start < patience_s() and (self.rig.clients or self.cameras.watched):
            self.rig.advance(PHYSICS_S)
            time.sleep(PHYSICS_S)

    def close(self) -> None:
        self.cameras.stop()
        for listener, path in zip(self._listeners.values(), self._paths, strict=True):
            listener.close()
            Path(path).unlink(missing_ok=True)

    def _motors(self, connection: Connection) -> None:
        with self.rig.motor_client():
            while True:
                answer = self.rig.exchange(connection.recv_bytes())
                if answer is not None:
                    connection.send_bytes(answer)

    def _camera(self, connection: Connection) -> None:
        name = protocol.recv_json(connection).get("camera", "")
        if name not in self.cameras.names:
            protocol.send_json(
                connection, {"error": f"no camera {name!r}; this world shows {', '.join(self.cameras.names)}"}
            )
            return
        protocol.send_json(connection, self.cameras.intrinsics(name))
        for frame in self.cameras.frames(name):
            connection.send_bytes(frame)

    def _world(self, connection: Connection) -> None:
        while True:
            try:
                answer = self._answer(protocol.recv_json(connection))
            except (StagingError, ValueError, KeyError, TypeError) as error:
                answer = {
                    "error": str(error)
                    if isinstance(error, StagingError | ValueError)
                    else f"malformed request: {error!r}"
                }
            protocol.send_json(connection, answer)

    def _answer(self, request: dict) -> dict:
        operation = request.pop("op", "")
        if operation == "reset":
            return self.rig.reset(
                request["suite"], request["task"], int(request["seed"]), bool(request.get("held_out", False))
            )
        if operation == "verdict":
            return self.rig.verdict()
        if operation == "status":
            return self.rig.status()
        if operation == "inject":
            if "camera" in request:
                return self.cameras.inject(request["camera"], bool(request["unplugged"]))
            return self.rig.inject(**request)
        raise ValueError(f"unknown operation {operation!r}; known: reset, verdict, status, inject")


def _listen(folder: Path, name: str) -> Listener:
    path = protocol.endpoint(folder, name)
    if len(path) > 100:
        raise OSError(
            f"socket path {path} has {len(path)} characters, Unix allows about 100; choose a shorter --endpoint"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.exists(path):
        try:
            Client(path, "AF_UNIX").close()
        except OSError:
            os.unlink(path)
        else:
            raise OSError(f"another sim_world already serves {path}; stop it, or choose another --endpoint")
    return Listener(path, "AF_UNIX", backlog=8)


def _accept(listener: Listener, handler) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_until_gone, args=(handler, connection), daemon=True).start()


def _until_gone(handler, connection: Connection) -> None:
    with connection:
        try:
            handler(connection)
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    sys.exit(main())
