"""The simulated arm, reached as real motors are: one command and one answer per tick over a socket."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from actdistill_ros.arm.backend import ArmError, JointCommand, JointFeedback
from actdistill_ros.sim.protocol import COMMAND, FAULTS, FEEDBACK, MOTOR_NAMES, MOTORS, endpoint

ANSWER_S = 1.0
"""How long the motors may take to answer the first command."""
UNANSWERED = 5
"""Commands that may be under way; motors that answer none of them are only asked again every `PROBE_S`."""
PROBE_S = 0.1


class SimArm:
    """ArmBackend over motors.sock in `folder`, the one that `sim_world --endpoint` was given."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._connection: Connection | None = None
        self._feedback: JointFeedback | None = None
        self._unanswered, self._sent_s = 0, 0.0

    def connect(self) -> JointFeedback:
        path = endpoint(self._folder, MOTORS)
        try:
            self._connection = Client(path, family="AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ArmError(
                f"no simulated motors at {path}: start `sim_world --endpoint {self._folder}` first"
            ) from error
        except OSError as error:
            raise ArmError(f"simulated motors at {path} cannot be reached: {error}") from error
        self._unanswered, self._feedback = 0, None
        self._write(0, np.zeros(6), 0.0)
        try:
            if not self._connection.poll(ANSWER_S):
                raise ArmError(
                    f"simulated motors at {path} do not answer within {ANSWER_S} s: is sim_world stuck or busy?"
                )
            return self.read()
        except OSError as error:
            raise ArmError(f"simulated motors at {path} cannot be reached: {error}") from error
        finally:
            if self._feedback is None:
                self._drop()

    def send(self, command: JointCommand) -> None:
        self._write(1, command.position_rad, command.gripper)

    def read(self) -> JointFeedback:
        if self._connection is None:
            raise ArmError(self._gone("not connected"))
        try:
            while self._connection.poll():
                self._feedback = self._parse(self._connection.recv_bytes())
                self._unanswered = 0  # an answer, to whichever command: somebody listens
        except (EOFError, OSError) as error:
            self._drop()
            raise ArmError(self._gone(str(error) or "closed")) from error
        return self._feedback

    def damp(self) -> None:
        if self._connection is None:
            return
        try:
            # The targets mean nothing without enable; where the arm is makes them harmless to a reader that ignores it.
            at = self._feedback.position_rad if self._feedback else np.zeros(6)
            self._write(0, at, self._feedback.gripper if self._feedback else 0.0)
        except ArmError:
            pass  # `read` says so on the next tick; damping must not fail

    def close(self) -> None:
        self.damp()
        self._drop()

    def _write(self, enable: int, position_rad: np.ndarray, gripper: float) -> None:
        if self._connection is None:
            raise ArmError(self._gone("not connected"))
        # Commands that pile up while the world is stuck would be played back all at once, and in the end `send` would
        # block.
        if self._unanswered >= UNANSWERED and not self._may_probe():
            return
        self._sent_s = time.monotonic()
        try:
            self._connection.send_bytes(COMMAND.pack(enable, *position_rad, gripper))
        except OSError as error:
            self._drop()
            raise ArmError(self._gone(str(error))) from error
        self._unanswered += 1

    def _may_probe(self) -> bool:
        if time.monotonic() - self._sent_s < PROBE_S:
            return False
        return bool(select.select([], [self._connection], [], 0.0)[1])

    def _parse(self, data: bytes) -> JointFeedback:
        if len(data) != FEEDBACK.size:
            self._drop()
            raise ArmError(
                f"simulated motors answered {len(data)} bytes, expected {FEEDBACK.size}: another version of sim_world?"
            )
        values = FEEDBACK.unpack(data)
        faults = {name: FAULTS.get(code, f"fault code {code}") for name, code in zip(MOTOR_NAMES, values[20:]) if code}
        # An answer that waited in the socket while this process did not run must not look fresh.
        stamp_s = min(values[0], self._clock())
        return JointFeedback(
            np.array(values[1:7]), np.array(values[7:13]), np.array(values[13:19]), values[19], stamp_s, faults
        )

    def _gone(self, why: str) -> str:
        return f"simulated motors at {endpoint(self._folder, MOTORS)} are gone ({why}): is sim_world still running?"

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
