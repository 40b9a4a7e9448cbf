"""Damping frames straight to the motors, once the vendor SDK is dead: the only stop that works when it got stuck."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from pathlib import Path

from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.bus_monitor import BusMonitor
from actdistill_ros.arm.can import CanBus
from actdistill_ros.arm.frames import FRAME, damping
from actdistill_ros.arm.sdk_settings import SdkSettings

REPEAT_S = 0.05  # between rounds
QUIET_S = 0.005  # no frame for so long: what the dead SDK had queued is gone
HUSH_S = 0.2  # no answer from anybody for so long: frames may not reach the motors at all
PATIENCE_S = 1.0  # how long a motor that does not answer is asked while others answer
LINGER_S = 30.0  # how long motors that do not acknowledge are tried after the driver left
GRIPPER_KD = 0.2
OWN_END_S = 1.0  # how long an SDK process without a guard may take to damp and end by itself


class Damper:
    """Rounds of one frame per motor, until every motor that lives has acknowledged one.

    A motor that was not heard yet may be slow, or its frame lost: it counts as dead only after it was asked for
    `PATIENCE_S` while others answered.
    """

    def __init__(self, connection: socket.socket, monitor: BusMonitor, settings: SdkSettings) -> None:
        """connection: also what `monitor` is fed from."""
        self._connection, self._monitor = connection, monitor
        kds = (*settings.damping_kd, GRIPPER_KD)
        self._round = [FRAME.pack(m.id, 8, damping(m, kd)) for m, kd in zip(monitor.motors, kds, strict=True)]
        self._sent_s = self._alive_s = 0.0
        self._whole = False
        self._dead: list[str] = []
        self.acknowledged = False

    def tick(self, now_s: float) -> None:
        """Never call it while the SDK lives: a second writer makes it abort."""
        if self.acknowledged:
            return
        monitor = self._monitor
        if not self._sent_s or now_s - max(track.answered_s for track in monitor.tracks) > HUSH_S:
            self._alive_s = now_s
        if self._sent_s and monitor.commanded_s < self._sent_s and self._answered(now_s):
            self.acknowledged = True
        elif now_s - self._sent_s > REPEAT_S and now_s - monitor.commanded_s > QUIET_S:
            self._sent_s = now_s
            # A bus that is off, or a full queue, refuses frames; the next round tries again.
            self._whole = all([wire.give(self._connection, packet) for packet in self._round])

    def _answered(self, now_s: float) -> bool:
        """Whether all of the last round was sent and the motors answered it, all but those that count as dead."""
        motors = zip(self._monitor.motors, self._monitor.tracks, strict=True)
        missing = {motor.name: track for motor, track in motors if track.answered_s <= self._sent_s}
        given_up_s = now_s - PATIENCE_S
        self._dead = [name for name, track in missing.items() if max(track.answered_s, self._alive_s) < given_up_s]
        return self._whole and len(missing) == len(self._dead) < len(self._round)

    def doubt(self, name: str) -> str:
        """Which motors on the bus of this name may be stiff, in words; empty if all acknowledged damping."""
        if not self.acknowledged:
            return unproven(f"the motors on {name}")
        return unproven(f"{', '.join(self._dead)} on {name}") if self._dead else ""


def unproven(motors: str) -> str:
    """What to tell of motors that did not acknowledge damping."""
    return f"ERROR: {motors} did not acknowledge damping and may hold their last position: cut their power"


def rescue(bus: CanBus, settings: SdkSettings, pid: int) -> str:
    """After the guard died: let its SDK process (`pid`) end or kill it, then damp. Returns `Damper.doubt`.

    Raises ArmError if the bus cannot be opened."""
    end_process(pid)
    with bus.open() as listener:
        monitor = BusMonitor(settings)
        damper = Damper(listener, monitor, settings)
        until = time.monotonic() + LINGER_S
        while not damper.acknowledged and time.monotonic() < until:
            select.select([listener], [], [], 0.005)
            try:
                if not hear(listener, monitor):
                    break
            except OSError as error:
                if error.errno == errno.ENODEV:
                    break  # any other trouble, a bus that is down, may pass
                time.sleep(QUIET_S)  # an error that stays must not make this thread spin: the kernel would end it
            damper.tick(time.monotonic())
        return damper.doubt(bus.name)


def hear(listener: socket.socket, monitor: BusMonitor) -> bool:
    """Feed the monitor with what waits; False if the bus is gone. Raises OSError for other troubles of the socket."""
    try:
        for _ in range(64):
            packet = listener.recv(FRAME.size)
            if len(packet) < FRAME.size:
                return False
            identifier, _, data = FRAME.unpack(packet)
            monitor.take(identifier, data, time.monotonic())
    except BlockingIOError:
        pass
    return True


def end_process(pid: int) -> None:
    """Wait for an SDK process to end by itself, which damps; kill it if it does not."""
    try:
        if b"actdistill_ros.arm.sdk_child" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return  # it ended, and the number is another's now
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not select.select([handle], [], [], OWN_END_S)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], OWN_END_S)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
