"""Keeps driver and arm in step: one thread, a fixed rate, absolute deadlines."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from actdistill_ros import priority
from actdistill_ros.arm.backend import ArmBackend, ArmError, JointFeedback
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control import trajectory
from actdistill_ros.control.answers import AnswerLog
from actdistill_ros.control.driver import Driver
from actdistill_ros.control.driver_state import DriverState
from actdistill_ros.control.modes import LIMP, Mode
from actdistill_ros.control.operator import Twist
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.trajectory import Trajectory

REST_S = 0.2
"""How long the arm holds before it damps when the loop ends, so that it comes to rest first."""
EVENTS = 50
"""Events kept until they are told; the oldest go first."""
PAUSE = 0.1
"""Share of a period that is always left to others, however long a tick took."""


@dataclass(frozen=True)
class LoopState:
    """driver: snapshot. events: not told yet. ticks, late_ticks: since the start; late by more than half a
    period. answers_hz: how often each motor answered within the last second, the gripper's last."""

    driver: DriverState
    feedback: JointFeedback
    events: tuple[str, ...]
    ticks: int
    late_ticks: int
    answers_hz: tuple[float, ...]


class DriverLoop:
    """Owns the arm from `start` to `stop`; all methods may be called from any thread."""

    def __init__(self, settings: DriverSettings, arm: ArmBackend, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._arm, self._clock = settings, arm, clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arm driver", daemon=True)
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._answers = AnswerLog(settings.rate_hz)
        self._ticks = self._late_ticks = 0
        self._lost = False

    def start(self) -> None:
        """Reach the arm and begin to tick, idle. Raises ArmError."""
        self._connect()
        self._thread.start()

    def stop(self) -> None:
        """Hold, come to rest, damp, let go of the arm. May be called twice."""
        if self._thread.is_alive():
            self.rest()
            self._stopping.set()
            self._thread.join()
        self._arm.close()

    def rest(self) -> None:
        """Bring a moving arm to a hold, then damp it; an emergency stop stays one."""
        if not self.halt():
            self._stopping.wait(REST_S)
            self.set_mode(Mode.IDLE)

    def halt(self, source: str = "") -> str:
        """Hold an arm that is under power, and with `source` only one that this source has. A limp arm stays limp:
        whoever asks may not know yet that somebody let it go. Returns why not; empty if it holds."""
        with self._lock:
            state = self._driver.state()
            if state.mode in LIMP or source not in ("", state.source):
                return f"nothing to stop: the mode is {state.mode.name} ({state.reason})"
            return self._driver.set_mode(Mode.HOLD)

    def offer(self, chunk: Chunk) -> str:
        with self._lock:
            return self._driver.offer(chunk)

    def refuse(self, why: str) -> str:
        with self._lock:
            return self._driver.refuse(why)

    def jog(self, twist: Twist) -> str:
        with self._lock:
            return self._driver.jog(twist)

    def deadman(self, held: bool) -> None:
        with self._lock:
            self._driver.deadman(held)

    def refuse_teleop(self, why: str) -> str:
        with self._lock:
            return self._driver.refuse_teleop(why)

    def grip(self, opening: float) -> str:
        with self._lock:
            return self._driver.grip(opening)

    def follow(self, wanted: Trajectory) -> str:
        """Take the way if it is good as a whole. Judging takes too long for the lock: the arm must rest meanwhile."""
        with self._lock:
            start = self._driver.joints
        way, why = trajectory.judge(wanted, start, self._clock(), self._settings)
        if why:
            return why
        with self._lock:
            return self._driver.follow(way)

    def set_mode(self, mode: Mode, reset: bool = False) -> str:
        """As `Driver.set_mode`; with `reset`, an arm that was lost is looked for again first."""
        with self._lock:
            if self._lost and reset:
                try:
                    self._connect()
                except ArmError as error:
                    self._driver.lose(str(error))
                    return str(error)
            return self._driver.set_mode(mode, reset)

    def set_speed_scale(self, scale: float) -> None:
        with self._lock:
            self._driver.set_speed_scale(scale)
            self._settings = replace(self._settings, speed_scale=scale)

    def state(self) -> LoopState:
        with self._lock:
            answers_hz, events = self._answers.rates_hz(self._clock()), tuple(self._events)
            return LoopState(self._driver.state(), self._feedback, events, self._ticks, self._late_ticks, answers_hz)

    def told(self, state: LoopState) -> None:
        """Whoever must hear the events of this snapshot has heard them."""
        with self._lock:
            for event in state.events:
                if self._events and self._events[0] is event:
                    self._events.popleft()

    def _connect(self) -> None:
        self._arm.close()
        self._feedback = self._arm.connect()
        self._driver = Driver(self._settings, self._clock, self._feedback)
        self._lost = False

    def _run(self) -> None:
        priority.claim(priority.TICK)  # refused or not, it ticks; whoever owns the process tells why
        period = self._settings.tick_s
        due = time.monotonic()
        while not self._stopping.is_set():
            late = time.monotonic() - due
            if late > 0.5 * period:
                self._late_ticks += 1
            if late > self._settings.late_ticks * period:
                due = time.monotonic()  # a tick that was missed is gone: two at once would be a jump
            with self._lock:
                self._cycle()
            self._ticks += 1
            due += period
            time.sleep(max(PAUSE * period, due - time.monotonic()))

    def _cycle(self) -> None:
        if self._lost:
            return
        try:
            self._feedback = self._arm.read()
            self._answers.note(self._feedback)
            tick = self._driver.tick(self._feedback)
            self._events.extend(tick.events)
            if tick.command is None:
                self._arm.damp()
            else:
                self._arm.send(tick.command)
        except ArmError as error:
            self._lose(str(error))
        except Exception as error:
            # Whatever it is, the arm must not stay stiff on its last command with nobody behind it.
            self._lose(f"the driver itself failed: {error!r}")

    def _lose(self, why: str) -> None:
        self._lost = True
        self._arm.close()
        self._driver.lose(why)
        self._events.append(f"DAMPING: ERROR: {why}")
