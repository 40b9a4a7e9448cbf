"""`emulated_bus`: a CAN bus with the seven motors of an ARX5 on Unix sockets; faults are injected by command.

In a folder, for interface can0: `can0` (each packet a struct can_frame; what one client sends, the others hear, as on
SocketCAN), `can0.watch` (the same for listeners that also want error frames) and `can0.ctl` (JSON requests).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path

from actdistill_ros import priority
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.emulated.motors import Motors
from actdistill_ros.arm.emulated.plant import JointModel, Plant, WorldPlant, gripper_readout
from actdistill_ros.arm.emulated.wire import CONTROL, RECORD, WATCH
from actdistill_ros.arm.frames import ERROR_BUS_OFF, ERROR_FLAG, ERROR_RESTARTED, FRAME, MODELS
from actdistill_ros.leave import leave

LOGGED = 600_000  # frames kept; about 80 s of traffic
TICK_S = 0.002
START_RAD = (0.0, 1.0, 1.0, -0.5, 0.0, 0.0)
BITRATE = 1_000_000
OUTLIVE_S = 1.5  # how long the bus goes on after SIGINT for those who still use it; SIGTERM ends it at once


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        plant: Plant
        if args.world:
            plant = WorldPlant(args.model, args.world)
        else:
            start = tuple(float(word) for word in args.start.split(",")) if args.start else START_RAD
            plant = JointModel(args.model, (*start, gripper_readout(args.opening)))
        bus = Bus(args.folder, args.interface, Motors(args.model, plant))
    except (ArmError, OSError, ValueError) as error:
        print(f"emulated_bus: {error}", file=sys.stderr)
        return 2
    # Ctrl-C reaches all processes at once, and hardware does not vanish before the driver has let go of it.
    signal.signal(signal.SIGINT, lambda *_: bus.stop(OUTLIVE_S))
    signal.signal(signal.SIGTERM, lambda *_: bus.stop())
    priority.steady()
    priority.claim(priority.GUARD)  # a motor never waits for a processor
    print("ready", flush=True)
    try:
        bus.run()
    except (EOFError, ConnectionError):
        print("emulated_bus: the simulated world is gone", file=sys.stderr)
        return 1
    finally:
        bus.close()
    leave(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emulated_bus", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for the sockets; one bus per interface")
    parser.add_argument("--interface", default="can0", help="name of the interface that clients open")
    parser.add_argument("--model", choices=sorted(MODELS), default="X5", help="which arm hangs on the bus")
    parser.add_argument("--world", type=Path, help="folder of sim_world's sockets; without it, a simple joint model")
    parser.add_argument("--start", default="", help="six joint positions [rad], comma separated (joint model)")
    parser.add_argument("--opening", type=float, default=1.0, help="gripper opening at the start (joint model)")
    return parser


class Client:
    """One open CAN socket."""

    def __init__(self, connection: socket.socket, watches: bool) -> None:
        connection.setblocking(False)
        self.connection, self.watches = connection, watches
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid = struct.unpack("3i", credentials)[0]

    def give(self, packet: bytes) -> None:
        try:
            self.connection.send(packet)
        except OSError:
            pass  # a reader that is too slow loses frames, one that is gone is noticed when it is read


class Bus:
    """Carries frames between clients and motors until `stop`. Belongs to one thread."""

    def __init__(self, folder: Path, interface: str, motors: Motors) -> None:
        """Raises OSError if the sockets cannot be made."""
        self._motors, self._path = motors, folder / interface
        self._clients: dict[int, Client] = {}
        self._log: deque[bytes] = deque(maxlen=LOGGED)
        self._last: dict[int, bytes] = {}
        self._late: deque[tuple[float, bytes]] = deque()
        self._late_s, self._bus_off, self._up, self._bitrate = 0.0, False, True, BITRATE
        self._stopped_s = self._until_s = math.inf
        self._selector = selectors.DefaultSelector()
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, accept in (("", self._accept), (WATCH, self._accept_watch), (CONTROL, self._accept_control)):
            path = f"{self._path}{suffix}"
            if len(path) > 107:
                raise OSError(f"socket path {path} has {len(path)} characters, Unix allows 107: use a shorter folder")
            Path(path).unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            listener.listen(16)
            self._selector.register(listener, selectors.EVENT_READ, accept)

    def run(self) -> None:
        due = time.monotonic()
        while (now := time.monotonic()) < (self._until_s if self._clients else self._stopped_s):
            if now >= due:
                self._motors.tick(now)
                due = max(due + TICK_S, now)
            while self._late and self._late[0][0] <= now:
                self._send(self._late.popleft()[1], 0)
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                key.data(key.fileobj)

    def stop(self, patience_s: float = 0.0) -> None:
        """End `run` now, or once the clients have gone, after `patience_s` at most."""
        self._stopped_s = time.monotonic()
        self._until_s = min(self._until_s, self._stopped_s + patience_s)

    def close(self) -> None:
        for suffix in ("", WATCH, CONTROL):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    # -- clients
    def _accept(self, listener: socket.socket, watches: bool = False) -> None:
        connection, _ = listener.accept()
        client = self._clients[connection.fileno()] = Client(connection, watches)
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._hear(client))

    def _accept_watch(self, listener: socket.socket) -> None:
        self._accept(listener, watches=True)

    def _accept_control(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, self._serve)

    def _hear(self, client: Client) -> None:
        for _ in range(32):  # the others' turn comes, however much one sends
            try:
                packet = client.connection.recv(FRAME.size)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it closed with frames unread; what it sent before is on its way, as in a CAN adapter
            except OSError:
                packet = b""
            if not packet:
                self._selector.unregister(client.connection)
                del self._clients[client.connection.fileno()]
                client.connection.close()
                return
            if len(packet) == FRAME.size and self._up and not self._bus_off:
                self._carry(packet, client)

    def _carry(self, packet: bytes, sender: Client) -> None:
        identifier, _, data = FRAME.unpack(packet)
        now = time.monotonic()
        self._log.append(RECORD.pack(now, sender.pid, identifier, data))
        self._last[identifier] = data
        for client in self._clients.values():
            if client is not sender:
                client.give(packet)
        answer = self._motors.hear(identifier, data, now)
        if answer is not None:
            reply = FRAME.pack(answer[0], 8, answer[1])
            if self._late_s or self._late:
                self._late.append((now + self._late_s, reply))
            else:
                self._send(reply, 0)

    def _send(self, packet: bytes, pid: int, watchers_only: bool = False) -> None:
        identifier, _, data = FRAME.unpack(packet)
        self._log.append(RECORD.pack(time.monotonic(), pid, identifier, data))
        for client in self._clients.values():
            if client.watches or not watchers_only:
                client.give(packet)

    # -- control
    def _serve(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""  # it was killed while it waited
        if not data:
            self._selector.unregister(connection)
            connection.close()
            return
        try:
            answer = self._answer(json.loads(data))
        except (ValueError, KeyError, TypeError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            connection.send(json.dumps(answer).encode())
        except OSError:
            pass  # nobody waits for it any more; the next look at this connection ends it

    def _answer(self, request: dict) -> dict:
        operation = request.pop("op", "")
        if operation == "link":
            state = "bus-off" if self._bus_off else "error-active"
            others = sorted({client.pid for client in self._clients.values()})
            return {"up": self._up, "bitrate": self._bitrate, "state": state, "others": others}
        if operation == "inject":
            return self._inject(**request)
        if operation == "log":
            wanted = self._since(float(request.get("since_s", 0.0)))
            with open(request["path"], "wb") as file:
                file.write(b"".join(wanted))
            return {"frames": len(wanted)}
        if operation == "last":
            return {"last": {str(identifier): data.hex() for identifier, data in self._last.items()}}
        if operation == "motors":
            return {"motors": self._motors.report(time.monotonic())}
        raise ValueError(f"unknown operation {operation!r}; known: link, inject, log, last, motors")

    def _since(self, since_s: float) -> Collection[bytes]:
        """The newest frames, found from their end: while all of a long log is written, no motor answers."""
        if since_s <= 0.0:
            return self._log
        newest = list(itertools.takewhile(lambda record: RECORD.unpack(record)[0] >= since_s, reversed(self._log)))
        return newest[::-1]

    def _inject(
        self,
        foreign: int | None = None,
        late_s: float | None = None,
        bus_off: bool | None = None,
        up: bool | None = None,
        bitrate: int | None = None,
        **motors,
    ) -> dict:
        """Faults of the bus are made here, those of its motors by `Motors.inject`."""
        if foreign is not None:
            self._send(FRAME.pack(foreign, 8, b"\x55" * 8), 0)
        self._late_s = self._late_s if late_s is None else float(late_s)
        self._up = self._up if up is None else up
        self._bitrate = self._bitrate if bitrate is None else bitrate
        if bus_off is not None and bus_off != self._bus_off:
            self._bus_off = bus_off
            error = ERROR_FLAG | (ERROR_BUS_OFF if bus_off else ERROR_RESTARTED)
            self._send(FRAME.pack(error, 8, bytes(8)), 0, watchers_only=True)
        self._motors.inject(**motors)
        return {"ok": True}


if __name__ == "__main__":
    sys.exit(main())
