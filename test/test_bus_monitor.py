"""What frames tell of the motors, by a clock set by hand; and the frames themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.bus_monitor import BusMonitor
from actdistill_ros.arm.frames import (
    BRAKE,
    DM_ENABLE,
    MODELS,
    Answer,
    Command,
    damping,
    decode_answer,
    decode_command,
    encode_answer,
    encode_command,
    is_ec_answer,
)

SDK = sdk_settings.load()
X5, L5 = MODELS["X5"], MODELS["L5"]
WELL = {True: 1, False: 0}


class Wire:
    """A bus on which every motor is asked and answers every 2 ms, except the mute ones."""

    def __init__(self, model: str = "X5") -> None:
        self.monitor, self.motors, self.now_s = BusMonitor(replace(SDK, model=model)), MODELS[model], 100.0
        self.mute: set[str] = set()
        self.lose = 0  # every so many answers one is lost

    def run(self, seconds: float, **changes) -> Wire:
        for cycle in range(round(seconds / 0.002)):
            self.now_s += 0.002
            for motor in self.motors:
                self.monitor.take(motor.id, damping(motor, 1.0), self.now_s)
                if motor.name not in self.mute and not (self.lose and cycle % self.lose == 0):
                    well = Answer(0.5, 0.0, 0.0, WELL[motor.kind.damiao], (30.0, 30.0))
                    self.monitor.take(*encode_answer(motor, replace(well, **changes)), self.now_s)
        return self

    @property
    def faults(self) -> dict[str, str]:
        return self.monitor.faults(self.monitor.answers(), self.now_s)


@pytest.mark.parametrize("motor", [*X5, L5[0]], ids=lambda motor: f"{motor.name}-{motor.kind.name}")
def test_commands_and_answers_survive_the_wire_within_its_steps(motor):
    command = Command(120.0, 1.5, -1.25, 0.5, 3.0)
    got = decode_command(motor, encode_command(motor, command))
    assert (got.kp, got.kd) == (pytest.approx(120.0, abs=0.13), pytest.approx(1.5, abs=0.01))
    assert got.position_rad == pytest.approx(-1.25, abs=4e-4)
    assert got.velocity_rad_s == pytest.approx(0.5, abs=0.022) and got.torque_nm == pytest.approx(3.0, abs=0.03)
    answer = Answer(0.75, -1.0, 2.0, 1, (40.0, 41.0))
    identifier, data = encode_answer(motor, answer)
    got = decode_answer(motor, data)
    assert identifier == (0 if motor.kind.damiao else motor.id) and got.fault == 1
    assert got.position_rad == pytest.approx(0.75, abs=4e-4) and got.torque_nm == pytest.approx(2.0, abs=0.03)
    assert got.temperature_c == ((40.0, 41.0) if motor.kind.damiao else (40.0,))


def test_zero_does_not_exist_on_the_wire():
    assert decode_answer(X5[3], encode_answer(X5[3], Answer(0.0, 0.0, 0.0, 1, (30, 30)))[1]).position_rad != 0.0


def test_commands_are_told_from_answers_that_share_their_id():
    assert not is_ec_answer(encode_command(X5[0], Command(80.0, 2.0, 1.0, 0.0, 0.0)))
    assert is_ec_answer(encode_answer(X5[0], Answer(1.0, 0.0, 0.0, 0, (30.0,)))[1])
    assert not any(is_ec_answer(encode_command(L5[0], Command(1, 1, q / 10, 0, 0))) for q in range(-55, 60))
    assert not is_ec_answer(DM_ENABLE) and decode_command(L5[0], DM_ENABLE) is None


def test_an_arm_that_answers_is_well_and_damped():
    wire = Wire().run(0.5)
    assert wire.faults == {} and wire.monitor.damped() and wire.monitor.unheard() == ()


@pytest.mark.parametrize(("silent_s", "fault"), [(0.09, {}), (0.12, {"joint4": "no answer"})])
def test_a_motor_is_missed_after_its_timeout_and_not_before(silent_s, fault):
    wire = Wire().run(0.1)
    wire.mute = {"joint4"}
    assert wire.run(silent_s).faults == fault


def test_nobody_was_silent_while_whoever_listens_was_away():
    wire = Wire().run(1.0)
    wire.now_s += 0.3
    wire.monitor.returned(wire.now_s)
    assert wire.faults == {}
    wire.mute = {"joint3"}
    assert wire.run(0.11).faults == {"joint3": "no answer"}


def test_a_listener_who_is_away_again_and_again_misses_a_motor_in_the_end():
    wire = Wire().run(1.0)
    wire.mute = {"joint3"}
    for _ in range(9):
        wire.run(0.05).monitor.returned(wire.now_s)
        assert wire.faults == {}
    wire.run(0.06).monitor.returned(wire.now_s)
    assert wire.faults == {"joint3": "no answer"}


def test_a_motor_that_was_away_and_is_back_owes_nothing():
    wire = Wire().run(0.1)
    wire.mute = {"joint4"}
    wire.run(1.0).mute = set()
    assert wire.run(0.01).faults == {}


def test_answers_that_stay_behind_are_late():
    monitor, motor = BusMonitor(SDK), X5[3]
    for cycle in range(100):
        at = 100.0 + 0.002 * cycle
        monitor.take(motor.id, damping(motor, 1.0), at)
        if cycle < 10 or cycle >= 45:  # from the tenth cycle on they come 70 ms late
            monitor.take(*encode_answer(motor, Answer(0.5, 0.0, 0.0, 1, (30, 30))), at)
        words = monitor.faults(monitor.answers(), at).get("joint4", "")
    assert words == "answers late"


def late(monitor: BusMonitor, begin_s: float, cycles: int, delay: int, pause: int = 0) -> list[str]:
    """joint4's fault after each cycle of 2 ms, with answers `delay` cycles behind from the tenth on; nobody asks in the
    last `pause` cycles."""
    motor, words = X5[3], []
    for cycle in range(cycles):
        at = begin_s + 0.002 * cycle
        if cycle < cycles - pause:
            monitor.take(motor.id, damping(motor, 1.0), at)
        if cycle < min(10, cycles - pause) or cycle >= 10 + delay:
            monitor.take(*encode_answer(motor, Answer(0.5, 0.0, 0.0, 1, (30, 30))), at)
        words.append(monitor.faults(monitor.answers(), at).get("joint4", ""))
    return words


def test_answers_later_than_the_timeout_are_missed_and_then_called_late():
    words = late(BusMonitor(SDK), 100.0, 400, 100)
    assert words[70] == "no answer" and set(words[115:]) == {"answers late"}


def test_answers_that_go_on_after_the_last_command_are_late_whatever_was_believed():
    monitor = BusMonitor(SDK)
    late(monitor, 100.0, 1200, 100)  # believed to be punctual again: it may have been away
    assert late(monitor, 102.4, 200, 0, pause=20)[-1] == "answers late"


def test_a_motor_that_was_away_for_less_is_believed_once_a_pause_shows_that_no_answer_is_on_the_way():
    wire = Wire().run(0.1)
    wire.mute = {"joint4"}
    wire.run(0.3).mute = set()
    assert wire.run(0.01).faults == {"joint4": "answers late"}
    wire.now_s += 0.005
    wire.faults
    assert wire.run(0.01).faults == {}


def test_a_frame_that_brakes_is_the_same_to_motors_of_both_kinds():
    for motor in (X5[0], L5[0], X5[3]):
        command = decode_command(motor, BRAKE)
        assert command.kp == 0.0 and command.kd > 1.0
        assert abs(command.velocity_rad_s) < 0.02 and abs(command.torque_nm) < 0.02
    assert not is_ec_answer(BRAKE)


def test_few_lost_answers_are_no_lateness():
    wire = Wire()
    wire.lose = 100
    for _ in range(20):
        assert wire.run(0.5).faults == {}


def test_torque_must_last_to_be_an_over_current():
    assert Wire().run(0.03, torque_nm=7.5).faults == {}
    wire = Wire().run(0.02, torque_nm=7.5)
    wire.faults
    assert wire.run(0.07, torque_nm=7.5).faults["joint5"] == "over-current"


def test_motors_that_speak_the_other_kind_are_another_model():
    monitor = BusMonitor(SDK)
    monitor.take(*encode_answer(L5[0], Answer(0.0, 0.0, 0.0, 0, (30.0, 30.0))), 1.0)
    assert monitor.other_model == "joint1 answers as a Damiao motor"
    monitor = BusMonitor(replace(SDK, model="L5"))
    monitor.take(*encode_answer(X5[1], Answer(0.0, 0.0, 0.0, 0, (30.0,))), 1.0)
    assert monitor.other_model == "joint2 answers as an EC motor"
