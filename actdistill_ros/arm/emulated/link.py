"""The client's side of the emulated bus: the same Protocol as a CAN interface of the kernel, and its control socket."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from actdistill_ros.arm.can import Link
from actdistill_ros.arm.emulated import preload
from actdistill_ros.arm.emulated.wire import CONTROL, RECORD, WATCH
from actdistill_ros.arm.error import ArmError


class EmulatedCan:
    """CanBus over the sockets of `emulated_bus` in `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder

    def link(self) -> Link:
        state = ask(self._folder, self.name, op="link")
        mine = os.getpid()
        others = tuple(f"process {pid}" for pid in state["others"] if pid != mine)
        return Link(state["up"], state["bitrate"], state["state"], others)

    def open(self) -> socket.socket:
        connection = _connect(self._folder, f"{self.name}{WATCH}")
        connection.setblocking(False)
        return connection

    def environment(self) -> dict[str, str]:
        return preload.environment(self._folder)


@dataclass(frozen=True)
class Record:
    """A frame that was on the bus: monotonic time, process that sent it (0: a motor), CAN id with flags, data."""

    time_s: float
    pid: int
    id: int
    data: bytes


def ask(folder: Path, interface: str = "can0", **request) -> dict:
    """A request to the emulated bus: op link, inject, log, last or motors. Raises ArmError if it refuses."""
    with _connect(folder, f"{interface}{CONTROL}") as connection:
        connection.settimeout(5.0)
        try:
            connection.send(json.dumps(request).encode())
            data = connection.recv(65536)
        except OSError as error:
            raise ArmError(f"the emulated bus in {folder} does not answer ({error})") from error
    if not data:
        raise ArmError(f"the emulated bus in {folder} ended before it answered")
    answer = json.loads(data)
    if "error" in answer:
        raise ArmError(f"the emulated bus refuses {request}: {answer['error']}")
    return answer


def frames(folder: Path, scratch: Path, since_s: float = 0.0, interface: str = "can0") -> list[Record]:
    """What was on the bus since then; `scratch`: a file to pass it through."""
    ask(folder, interface, op="log", path=str(scratch), since_s=since_s)
    return [Record(*record) for record in RECORD.iter_unpack(scratch.read_bytes())]


def _connect(folder: Path, name: str) -> socket.socket:
    path = str(folder / name)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ArmError(
            f"no emulated bus at {path} ({error.strerror}): start `emulated_bus --folder {folder}` first"
        ) from error
    return connection
