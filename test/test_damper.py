"""When motors count as damped, by a clock set by hand; and that a bus carries what a killed process had sent."""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from sdk_parts import NOBODY, SDK, bus, until  # noqa: F401

from actdistill_ros.arm.bus_monitor import BusMonitor
from actdistill_ros.arm.damper import PATIENCE_S, REPEAT_S, Damper, rescue
from actdistill_ros.arm.frames import FRAME, Answer, damping, encode_answer

TICK_S = 0.005
ALL = range(7)


class Wire:
    """A damper on a socket whose other side is the motors."""

    def __init__(self) -> None:
        self._damper_side, self._motor_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._damper_side, self._motor_side):
            side.setblocking(False)
        self.monitor = BusMonitor(SDK)
        self.damper = Damper(self._damper_side, self.monitor, SDK)
        self.now_s = 100.0

    def asked(self) -> list[int]:
        """CAN ids of the frames that the motors got since the last call."""
        found = []
        try:
            while True:
                found.append(FRAME.unpack(self._motor_side.recv(FRAME.size))[0])
        except BlockingIOError:
            return found

    def block(self) -> None:
        """As a bus whose queue is full: it takes no frame until `asked` empties it."""
        try:
            while True:
                self._damper_side.send(FRAME.pack(0x7FF, 8, bytes(8)))
        except BlockingIOError:
            pass

    def answer(self, *indices: int) -> Wire:
        """A millisecond later."""
        self.now_s += 0.001
        for index in indices:
            motor = self.monitor.motors[index]
            well = Answer(0.5, 0.0, 0.0, 1 if motor.kind.damiao else 0, (30.0, 30.0))
            self.monitor.take(*encode_answer(motor, well), self.now_s)
        return self

    def tick(self, seconds: float = TICK_S) -> Wire:
        self.now_s += seconds
        self.damper.tick(self.now_s)
        return self

    def run(self, seconds: float, *answering: int) -> Wire:
        """With motors that answer each round."""
        for _ in range(round(seconds / TICK_S)):
            self.tick()
            if self.asked():
                self.answer(*answering)
        return self

    def close(self) -> None:
        self._damper_side.close()
        self._motor_side.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def test_motors_that_all_answered_are_damped_by_one_round(wire):
    assert wire.tick().asked() == [motor.id for motor in wire.monitor.motors]
    assert wire.tick().damper.acknowledged is False
    assert wire.answer(*ALL).tick().damper.acknowledged is True
    assert wire.damper.doubt("can0") == ""
    assert wire.tick(1.0).asked() == []


def test_a_damper_that_never_heard_the_motors_waits_for_those_that_are_slower_than_the_first(wire):
    wire.tick()
    assert wire.answer(0, 1, 2).tick().damper.acknowledged is False
    assert wire.answer(3, 4, 5, 6).tick().damper.acknowledged is True


def test_motors_that_a_round_did_not_reach_get_another_one(wire):
    wire.tick()
    wire.answer(0, 1, 2, 3).asked()
    wire.tick(REPEAT_S)
    assert len(wire.asked()) == 7 and not wire.damper.acknowledged
    assert wire.answer(*ALL).tick().damper.acknowledged is True


def test_answers_that_were_on_their_way_do_not_stand_for_frames_that_the_bus_refused(wire):
    wire.block()
    assert wire.tick().answer(*ALL).tick().damper.acknowledged is False
    assert set(wire.asked()) == {0x7FF}
    assert wire.run(0.1, *ALL).damper.acknowledged is True


@pytest.mark.parametrize("dead", [(1,), (0, 6), (0, 1, 2, 3, 4, 5)], ids=str)
def test_motors_that_are_dead_are_given_up_on_after_they_were_asked_for_a_while(wire, dead):
    living = [index for index in ALL if index not in dead]
    assert not wire.run(PATIENCE_S - 0.1, *living).damper.acknowledged
    assert wire.run(0.3, *living).damper.acknowledged
    names = ", ".join(wire.monitor.motors[index].name for index in dead)
    assert wire.damper.doubt("can0").startswith(f"ERROR: {names} on can0 did not acknowledge damping and may hold")


def test_a_motor_that_dies_between_two_rounds_is_given_up_on_too(wire):
    wire.run(0.2, 0, 1, 2, 3, 4, 5)
    assert not wire.run(PATIENCE_S - 0.1, *range(5)).damper.acknowledged
    assert wire.run(0.3, *range(5)).damper.acknowledged


def test_no_answer_at_all_is_no_acknowledgement(wire):
    assert not wire.run(5.0).damper.acknowledged
    assert wire.damper.doubt("can0").startswith("ERROR: the motors on can0 did not")


def test_a_bus_that_carries_frames_again_gives_every_motor_its_time_anew(wire):
    wire.run(0.5, 0, 1).run(3.0)
    assert not wire.run(PATIENCE_S - 0.1, 0, 1).damper.acknowledged
    assert wire.run(0.3, *ALL).damper.acknowledged


def test_a_command_of_the_dead_sdk_that_comes_after_a_round_takes_another_round(wire):
    wire.run(0.1)
    motor = wire.monitor.motors[0]
    wire.now_s += 0.001
    wire.monitor.take(motor.id, damping(motor, 1.0), wire.now_s)
    assert wire.answer(*ALL).tick().damper.acknowledged is False
    assert wire.run(0.2, *ALL).damper.acknowledged is True


class Open:
    """A bus that is this socket."""

    name = "can0"

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def open(self) -> socket.socket:
        return self._connection


def test_an_error_of_the_socket_does_not_crash_the_guard_that_only_damps():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setblocking(False)
    here.send(bytes(FRAME.size))
    there.close()  # with a frame unread: the first look at `here` fails, the next one finds that the bus is gone
    assert "the motors on can0 did not acknowledge damping" in rescue(Open(here), SDK, NOBODY)


def test_the_bus_outlives_whoever_asked_it_something_and_was_killed(bus):
    os.kill(bus._process.pid, signal.SIGSTOP)
    asks = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asks.connect(str(bus.folder / "can0.ctl"))
    asks.send(b'{"op": "link"}')
    asks.send(b'{"op": "link"}')
    asks.close()
    os.kill(bus._process.pid, signal.SIGCONT)
    assert len(bus.real()) == 7


def test_the_log_of_a_bus_is_had_from_a_moment_on(bus):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(bus.folder / "can0"))
    frames = [FRAME.pack(motor.id, 8, damping(motor, 1.0)) for motor in bus.motors.values()]
    client.send(frames[0])
    client.recv(FRAME.size)
    moment = time.monotonic()
    client.send(frames[1])
    client.recv(FRAME.size)
    client.close()
    first, *_ = bus.motors
    assert [frame.id for frame in bus.frames() if frame.pid][0] == first
    assert first not in [frame.id for frame in bus.frames(moment) if frame.pid] and bus.frames(moment)


def test_a_client_that_ends_with_frames_unread_had_sent_what_it_sent(bus):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(bus.folder / "can0"))
    frames = [FRAME.pack(motor.id, 8, damping(motor, 1.0)) for motor in bus.motors.values()]
    client.send(frames[0])
    client.recv(FRAME.size, socket.MSG_PEEK)  # the answer is here, and stays unread
    os.kill(bus._process.pid, signal.SIGSTOP)
    for frame in frames:
        client.send(frame)
    client.close()
    os.kill(bus._process.pid, signal.SIGCONT)
    until(bus.damped, "all seven frames")
