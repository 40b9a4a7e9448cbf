"""The process between driver and SDK: watches the bus, kills an SDK that is stuck, and damps the motors after it.

It runs in a session of its own, so that whoever kills the driver's group does not kill what damps the arm. Two rules:
nothing is written on the bus while the SDK lives (a second writer makes it abort), and once it is dead the motors get
damping frames until they acknowledge them.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from actdistill_ros import priority
from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.bus_monitor import BusMonitor, foreign_words
from actdistill_ros.arm.can import CanBus, SocketCan, restart
from actdistill_ros.arm.damper import LINGER_S, Damper, hear, rescue, unproven
from actdistill_ros.arm.error import ArmError
from actdistill_ros.arm.frames import others
from actdistill_ros.arm.probe import probe
from actdistill_ros.arm.sdk_settings import SdkSettings

PERIOD_S = 0.005
AWAY_S = 0.03  # a guard that ticks again only after this was away, and with it perhaps everybody else
PAUSE_S = 0.0002  # left to others in every period, however much is heard
REST_S = 0.2
OFF_S, UNPOWERED_S = 0.1, 0.1
GONE_S = 0.08  # how soon an adapter that is gone is noticed once an SDK that spins because of it was killed
SAID_S = 0.02  # an SDK that said it gives up and commands nothing for so long has
FIRST_S = 2.5  # a connecting SDK that has begun to talk is ready, or said why not (1.2 s), or is stuck after this
WORDS = 6  # last lines of the SDK that may explain its end


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--emulated", type=Path)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--after", type=int, help="only damp, once this SDK process without a guard has ended")
    args = parser.parse_args(argv)
    driver = socket.socket(fileno=args.fd)
    driver.setblocking(False)
    bus: CanBus = SocketCan(args.interface)
    if args.emulated:
        from actdistill_ros.arm.emulated.link import EmulatedCan

        bus = EmulatedCan(args.interface, args.emulated)
    settings = SdkSettings.from_json(args.settings)
    priority.steady()
    priority.claim(priority.GUARD)
    try:
        if args.after is not None:
            return _told(rescue(bus, settings, args.after))
        guard = Guard(bus, settings, driver)
    except (ArmError, OSError) as error:
        if args.after is not None:
            return _told(f"{unproven(f'the motors on {args.interface}')} ({error})")
        wire.give(driver, wire.words(fault=str(error)))
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: guard.leave())
    return _told(guard.run())


def _told(doubt: str) -> int:
    """Exit code; the last words on motors that may be stiff go to the terminal, since the driver may be gone."""
    if doubt:
        print(doubt, file=sys.stderr, flush=True)
    return 1 if doubt else 0


class Guard:
    """One connection to the arm, from the start of the SDK to motors that damp. Single-threaded."""

    def __init__(self, bus: CanBus, settings: SdkSettings, driver: socket.socket) -> None:
        """Starts the SDK process. Raises ArmError if the bus cannot be listened to."""
        self._bus, self._settings, self._driver = bus, settings, driver
        self._monitor = BusMonitor(settings)
        self._listener = bus.open()
        if other := probe(self._listener, settings):
            raise ArmError(f"{other}, so this is no {settings.model}: pass {others(settings.model)}")
        self._begin_s = time.monotonic()
        self._first_s = self._beat_s = 0.0
        self._ready, self._reason, self._lines, self._partial = False, "", [""], b""
        self._sequence = self._done = 0
        self._share, self._powered = 0.0, False
        self._told: dict[str, str] = {}
        self._leaving_s: float | None = None
        self._bus_gone, self._off_s = False, 0.0
        self._orderly = False
        self._damper = Damper(self._listener, self._monitor, settings)
        self._selector = selectors.DefaultSelector()
        self._start_sdk()
        for connection, handle in (
            (self._listener, self._on_frames),
            (driver, self._on_driver),
            (self._sdk, self._on_sdk),
            (self._process.stdout, self._on_words),
        ):
            self._selector.register(connection, selectors.EVENT_READ, handle)

    def _start_sdk(self) -> None:
        self._sdk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sdk.setblocking(False)
        command = [sys.executable, "-m", "actdistill_ros.arm.sdk_child", "--settings", self._settings.to_json()]
        command += ["--interface", self._bus.name, "--fd", str(theirs.fileno()), "--guard", str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **self._bus.environment()},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self._process.stdout.fileno(), False)
        theirs.close()

    def run(self) -> str:
        """Until the driver left and the motors damp; in words, which of those that had power did not acknowledge it."""
        due = ticked_s = time.monotonic()
        while not self._over():
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now >= due:
                if now - ticked_s > AWAY_S:
                    self._monitor.returned(now)
                due, ticked_s = now + PERIOD_S, now
                self._tick(now)
                time.sleep(PAUSE_S)
        return self._damper.doubt(self._bus.name) if self._powered else ""

    def leave(self, orderly: bool = True) -> None:
        """Damp and end; an arm whose driver died (not `orderly`) comes to rest first."""
        if self._leaving_s is None:
            self._leaving_s, self._orderly = time.monotonic(), orderly

    def _over(self) -> bool:
        if self._leaving_s is None or self._process.poll() is None:
            return False
        # Motors that never had power in this connection need no proof that they have none.
        linger_s = LINGER_S if self._powered else UNPOWERED_S
        return self._damper.acknowledged or self._bus_gone or time.monotonic() - self._leaving_s > linger_s

    # -- what is heard
    def _on_frames(self) -> None:
        try:
            if self._bus_gone or hear(self._listener, self._monitor):
                return
        except OSError as error:
            if error.errno != errno.ENODEV:
                self._monitor.link_fault = f"unusable ({error.strerror})"
                return
        self._bus_gone = True
        self._selector.unregister(self._listener)
        self._fail(f"{self._bus.name} is gone: was the adapter unplugged? The motors cannot be reached")

    def _on_driver(self) -> None:
        while (message := wire.take(self._driver)) is not None:
            if not message:
                self._selector.unregister(self._driver)
                self.leave(orderly=False)
                return
            if message[:1] == b"C":
                if self._ready and not self._reason and self._leaving_s is None:
                    wire.give(self._sdk, message)
            else:
                self.leave()

    def _on_sdk(self) -> None:
        while (message := wire.take(self._sdk)) is not None:
            if not message:
                self._selector.unregister(self._sdk)
                return
            if message[:1] == b"H":
                _, self._done, self._beat_s, self._share = wire.HEARTBEAT.unpack(message)
                self._powered = self._powered or self._share > 0.0
            elif b"ready" in message:
                self._on_ready()
            elif b"error" in message:
                self._fail(f"the SDK process failed: {json.loads(message)['error']}")
            else:
                wire.give(self._driver, message)

    def _on_ready(self) -> None:
        self._on_frames()
        if unheard := self._monitor.unheard():
            self._fail(
                f"{', '.join(unheard)} never answered: check power and cable there, and that the arm is an "
                f"{self._settings.model}"
            )
            return
        self._ready, self._beat_s, self._lines = True, time.monotonic(), [""]
        wire.give(self._driver, wire.words(ready=self._process.pid))

    def _on_words(self) -> None:
        data = self._process.stdout.read()
        if data is None:
            return
        if not data and self._process.stdout in self._selector.get_map():
            self._selector.unregister(self._process.stdout)
        *lines, self._partial = (self._partial + data).split(b"\n") if data else (self._partial, b"")
        for line in (line.decode(errors="replace") for line in lines):
            if "error" in line or "terminate" in line or "what()" in line or "Failed" in line:
                self._lines = [*self._lines, line.strip()][-WORDS:]

    # -- what is done
    def _tick(self, now: float) -> None:
        if not self._bus_gone:
            self._on_frames()  # what is judged is what the bus says now
        dead = self._process.poll() is not None
        if not self._reason and not dead and self._leaving_s is None:
            self._watch(now)
        elif dead and not self._reason and self._leaving_s is None:
            self._fail(self._ending())
        self._report(now)
        if self._leaving_s is not None and not dead:
            self._let_go(now)
        if self._process.poll() is not None:
            self._damper.tick(now)

    def _watch(self, now: float) -> None:
        settings, monitor = self._settings, self._monitor
        if monitor.link_fault:
            self._fail(
                f"{self._bus.name} is {monitor.link_fault}: check cable, termination and power of the arm, then "
                f"{restart(self._bus.name)}"
            )
        elif monitor.other_model:
            self._fail(f"{monitor.other_model}, so this is no {settings.model}: pass {others(settings.model)}")
        elif not self._ready:
            self._first_s = self._first_s or monitor.commanded_s
            if self._first_s and now - self._first_s > FIRST_S:
                self._fail(self._stuck("while it came up"))
            elif now - self._begin_s > settings.connect_timeout_s:
                self._fail(f"the vendor SDK did not come up within {settings.connect_timeout_s} s")
        elif monitor.silent_s(monitor.commanded_s, now) > settings.silence_timeout_s:
            self._silent(now)
        elif now - monitor.commanded_s > SAID_S and any(map(_gives_up, self._lines)):
            self._fail(self._stuck("when it gave up"))
        elif off := self._switched_off(now):
            self._fail(f"{off} switched off by itself: check its supply; a new connection switches it on again")
        elif now - self._beat_s > settings.heartbeat_timeout_s:
            self._fail(f"the SDK process stands still for {now - self._beat_s:.1f} s")

    def _silent(self, now: float) -> None:
        stuck = self._stuck(f"and commanded nothing for {now - self._monitor.commanded_s:.2f} s")
        self._kill()
        self._damper.tick(now)
        if select.select([self._listener], [], [], GONE_S)[0]:
            self._on_frames()
        self._fail(stuck)

    def _switched_off(self, now: float) -> str:
        """Motors that lost their supply and have it again: the SDK switches them on only while it connects."""
        off = [name for name, words in self._told.items() if words == "switched off"]
        self._off_s = (self._off_s or now) if off else 0.0
        return ", ".join(off) if off and now - self._off_s > OFF_S else ""

    def _stuck(self, when: str) -> str:
        faults = self._monitor.faults(self._monitor.answers(), time.monotonic())
        seen = "; ".join(f"{name} {words}" for name, words in faults.items() if words != "no answer")
        why = self._lines[-1] or seen or "it says nothing"
        for line in self._lines:
            if _gives_up(line):
                why = line
        return f"the vendor SDK got stuck {when} and was killed: {why.partition('] ')[2] or why}"

    def _ending(self) -> str:
        code = self._process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        self._on_frames()
        self._on_words()  # its last words may still be in the pipe
        choked = any("invalid can_id" in line for line in self._lines)
        culprit = self._monitor.foreign if self._monitor.foreign is not None else self._monitor.error
        if choked and culprit is not None:
            return f"the vendor SDK {how} because {foreign_words(culprit)}"
        return f"the vendor SDK {how}" + (f": {self._lines[-1]}" if self._lines[-1] else "")

    def _fail(self, reason: str) -> None:
        """Kill the SDK and tell why; the motors damp from the next tick on."""
        if not self._reason:
            self._reason = reason
            self._kill()
            self._damper.tick(time.monotonic())
            wire.give(self._driver, wire.words(fault=reason))

    def _let_go(self, now: float) -> None:
        """The SDK damps, and when the bus shows that it did, or it takes too long, it is killed."""
        rest_s = REST_S if self._share and not self._orderly else 0.0
        passed_s = now - self._leaving_s
        what = wire.HOLD if passed_s < rest_s else wire.DAMP
        wire.give(self._sdk, wire.COMMAND.pack(b"C", what, self._done, now, *wire.NOWHERE))
        if passed_s > rest_s + 0.02 and (self._monitor.damped() or passed_s > rest_s + 0.2):
            self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _report(self, now: float) -> None:
        answers = self._monitor.answers()
        faults = self._monitor.faults(answers, now)
        if faults != self._told:
            self._told = faults
            wire.give(self._driver, wire.words(faults=faults))
        self._sequence += 1
        values = [(a.position_rad, a.velocity_rad_s, a.torque_nm) if a else (0.0, 0.0, 0.0) for a in answers]
        wire.give(
            self._driver,
            wire.FEEDBACK.pack(
                b"F",
                self._sequence,
                self._done,
                now,
                *(track.answered_s for track in self._monitor.tracks),
                *(value[0] for value in values),
                *(value[1] for value in values),
                *(value[2] for value in values),
            ),
        )


def _gives_up(line: str) -> bool:
    """Whether these are the last words of an SDK that means to damp, and deadlocks instead with stiff motors."""
    return "position error" in line or "Over current detected," in line or "data error" in line


if __name__ == "__main__":
    sys.exit(main())
