"""The arm behind the vendor SDK, as the driver sees it: a guard process that holds the SDK in a process of its own."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actdistill_ros.arm import can
from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.backend import ArmError, JointCommand, JointFeedback
from actdistill_ros.arm.bus_monitor import NEVER
from actdistill_ros.arm.can import CanBus
from actdistill_ros.arm.sdk_settings import SdkSettings

OPEN_READOUT_RAD = 5.03  # gripper motor at opening 1, in the vendor SDK's configuration
END_S = 1.0
"""How long an orderly end may take: damping seen on the bus, then acknowledged by the motors."""
START_S = 10.0
"""How long the guard itself may take to start, on a machine that is busy."""
RESCUE_S = 2.0
"""How long a new connection waits for what is left of the one before."""
SILENT_S = 0.5
"""A guard reports every 5 ms; one that does not for so long is gone or stopped."""


class SdkArm:
    """ArmBackend over a CAN bus. Every `connect` starts a guard and an SDK process anew."""

    def __init__(
        self, bus: CanBus, settings: SdkSettings, clock: Callable[[], float] = time.time, emulated: Path | None = None
    ) -> None:
        """emulated: folder of the emulated bus that `bus` is; None for an interface of the kernel."""
        self._bus, self._settings, self._clock, self._emulated = bus, settings, clock, emulated
        self._guard: subprocess.Popen | None = None
        self._connection: socket.socket | None = None
        self._fault = ""
        self._clear()

    def _clear(self) -> None:
        self._faults: dict[str, str] = {}
        self._values: tuple[float, ...] | None = None
        self._sequence = 0
        self._heard_s = time.monotonic()
        self._pid = 0

    def connect(self) -> JointFeedback:
        can.check_name(self._bus.name)
        # While the bus is unusable the guard of the connection before goes on trying to damp the motors.
        if why := can.link_refusal(self._bus.name, self._bus.link()):
            raise ArmError(why)
        self._end_guard()
        can.preflight(self._bus)
        self._clear()
        self._start_guard()
        try:
            self._await_ready()
            return self.read()
        except ArmError:
            self._leave()
            raise

    def send(self, command: JointCommand) -> None:
        target = (*command.position_rad.tolist(), *command.velocity_rad_s.tolist(), float(command.gripper))
        if not np.isfinite(target).all():
            raise ValueError(f"joint command is not finite: {command}")
        self._command(wire.FOLLOW, target)

    def read(self) -> JointFeedback:
        self._listen()
        if self._connection is None:
            raise ArmError(self._fault or f"the arm on {self._bus.name} is not connected")
        if time.monotonic() - self._heard_s > SILENT_S:
            self._guard.kill()
            self._lose(f"the guard of {self._bus.name} was silent for more than {SILENT_S} s and was killed")
            self._rescue()
        if self._connection is None:
            raise ArmError(self._fault)
        return self._feedback()

    def damp(self) -> None:
        try:
            self._command(wire.DAMP, wire.NOWHERE)
        except ArmError:
            pass  # `read` says so on the next tick; damping must not fail

    def close(self) -> None:
        """An orderly end is waited for; after a fault the guard goes on by itself until the motors acknowledge."""
        waits = self._connection is not None
        self._leave()
        if waits and self._guard is not None:
            try:
                self._guard.wait(END_S)
            except subprocess.TimeoutExpired:
                pass

    # -- the guard
    def _start_guard(self) -> None:
        self._guard, self._connection = self._spawn()
        self._fault = ""

    def _rescue(self) -> None:
        """The guard died: another one sees to it that the motors damp."""
        self._guard.wait()
        self._guard, connection = self._spawn("--after", str(self._pid))
        connection.close()

    def _spawn(self, *more: str) -> tuple[subprocess.Popen, socket.socket]:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "actdistill_ros.arm.guard", "--settings", self._settings.to_json()]
        command += ["--interface", self._bus.name, "--fd", str(theirs.fileno())]
        command += ["--emulated", str(self._emulated)] if self._emulated else []
        # A session of its own: whoever kills this process's group must not kill what damps the arm.
        guard = subprocess.Popen(
            [*command, *more], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        mine.setblocking(False)
        return guard, mine

    def _await_ready(self) -> None:
        until = time.monotonic() + self._settings.connect_timeout_s + START_S
        self._ready = False
        while not (self._ready and self._values):
            left = until - time.monotonic()
            if left < 0.0:
                raise ArmError(f"the guard of {self._bus.name} did not come up in time")
            if self._connection is not None:
                select.select([self._connection], [], [], left)
            self._listen()
            if self._connection is None:
                raise ArmError(self._fault)

    def _listen(self) -> None:
        while self._connection is not None and (message := wire.take(self._connection)) is not None:
            if not message:
                self._lose(f"the guard of {self._bus.name} ended: it was killed, or failed as written above")
                self._rescue()
            elif message[:1] == b"F":
                self._values, self._heard_s = wire.FEEDBACK.unpack(message)[1:], time.monotonic()
            else:
                self._on_words(json.loads(message))

    def _on_words(self, body: dict) -> None:
        if "fault" in body or "error" in body:
            self._lose(body.get("fault") or body["error"])
        elif "faults" in body:
            self._faults = body["faults"]
        elif "ready" in body:
            self._ready, self._pid = True, body["ready"]
        elif "refused" in body:
            self._lose(f"the SDK process refused a command: {body['refused']}")

    def _lose(self, why: str) -> None:
        self._fault = why
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _leave(self) -> None:
        if self._connection is not None:
            wire.give(self._connection, wire.words(leave=True))
            self._connection.close()
            self._connection = None

    def _end_guard(self) -> None:
        """The guard of the connection before still listens; there must be one at a time."""
        self._leave()
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            guard.wait(RESCUE_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()

    # -- commands and feedback
    def _command(self, what: int, target: tuple[float, ...]) -> None:
        if self._connection is None:
            raise ArmError(self._fault or f"the arm on {self._bus.name} is not connected")
        self._sequence += 1
        message = wire.COMMAND.pack(b"C", what, self._sequence, time.monotonic(), *target)
        wire.give(self._connection, message)  # a guard that does not read is found by `read`

    def _feedback(self) -> JointFeedback:
        values = self._values
        position = values[10:17]
        # The processes share a monotonic clock; the driver's stamps are of another one.
        offset_s = self._clock() - time.monotonic()
        stamps_s = tuple(at + offset_s if at != NEVER else NEVER for at in values[3:10])
        return JointFeedback(
            np.array(position[:6]),
            np.array(values[17:23]),
            np.array(values[24:30]),
            position[6] / OPEN_READOUT_RAD,
            min(stamps_s),
            dict(self._faults),
            stamps_s,
        )
