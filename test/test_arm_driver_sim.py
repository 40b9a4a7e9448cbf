"""The simulated arm answers over a real socket; every way in which it can go is an ArmError in words."""

from __future__ import annotations

import time

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS
from motor_parts import Motors

from actdistill_ros.arm import sim
from actdistill_ros.arm.backend import ArmError, JointCommand
from actdistill_ros.arm.sim import SimArm
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import Mode


@pytest.fixture
def motors(tmp_path):
    motors = Motors(tmp_path)
    yield motors
    motors.close()


@pytest.fixture
def arm(tmp_path, motors):
    arm = SimArm(tmp_path)
    yield arm
    arm.close()


def until(condition, seconds: float = 5.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
    return found


def read(arm, condition):
    """The first feedback for which the condition holds."""
    return until(lambda: feedback if condition(feedback := arm.read()) else None)


def test_connecting_tells_where_the_arm_is_and_gives_no_torque(arm, motors):
    before = time.time()
    feedback = arm.connect()
    np.testing.assert_array_equal(feedback.position_rad, HOME_Q)
    assert feedback.gripper == 1.0 and feedback.faults == {} and before <= feedback.stamp_s <= time.time()
    assert [enabled for enabled, _ in motors.log] == [0]


def test_a_command_reaches_the_motors_and_its_answer_comes_back(arm, motors):
    arm.connect()
    arm.send(JointCommand(HOME_Q + 0.1, 0.5))
    feedback = read(arm, lambda f: f.gripper == 0.5)
    np.testing.assert_array_equal(feedback.position_rad, HOME_Q + 0.1)
    assert motors.enabled == 1


def test_damping_takes_the_torque_away(arm, motors):
    arm.connect()
    arm.send(JointCommand(HOME_Q, 1.0))
    arm.damp()
    until(lambda: motors.log[-1][0] == 0 and len(motors.log) == 3)


def test_fault_codes_become_words_by_motor(arm, motors):
    motors.faults = [0, 10, 0, 0, 0, 0, 99]
    assert arm.connect().faults == {"joint2": "over-current", "gripper": "fault code 99"}


def test_an_answer_that_waited_in_the_socket_does_not_look_fresh(arm, motors):
    motors.stamp_shift_s = -3.0
    assert arm.connect().stamp_s < time.time() - 2.9


def test_an_answer_from_the_future_is_stamped_when_it_was_received(arm, motors):
    motors.stamp_shift_s = 60.0
    assert arm.connect().stamp_s <= time.time()


def test_no_world_is_said_with_the_command_that_starts_one(tmp_path):
    with pytest.raises(
        ArmError, match=rf"no simulated motors at {tmp_path}/motors.sock: start `sim_world --endpoint {tmp_path}`"
    ):
        SimArm(tmp_path).connect()


def test_a_socket_that_nobody_serves_any_more_is_no_world(tmp_path, motors):
    motors.close()
    (tmp_path / "motors.sock").touch()
    with pytest.raises(ArmError, match="start `sim_world"):
        SimArm(tmp_path).connect()


def test_motors_that_do_not_answer_are_said(arm, motors, monkeypatch):
    monkeypatch.setattr(sim, "ANSWER_S", 0.05)
    motors.answers = False
    with pytest.raises(ArmError, match="do not answer within 0.05 s"):
        arm.connect()
    with pytest.raises(ArmError, match="not connected"):
        arm.read()


def test_a_world_that_dies_is_an_error_at_the_next_read_or_send(arm, motors):
    arm.connect()
    motors.close()
    with pytest.raises(ArmError, match="are gone .*: is sim_world still running?"):
        until(lambda: arm.read() is None)
    with pytest.raises(ArmError, match="not connected"):
        arm.send(JointCommand(HOME_Q, 1.0))
    arm.damp()
    arm.close()
    arm.close()


def test_an_answer_of_another_size_is_refused(arm, motors):
    motors.answer = b"x" * 10
    with pytest.raises(ArmError, match="answered 10 bytes, expected 167"):
        arm.connect()


def test_sending_never_blocks_on_a_world_that_is_stuck(arm, motors, monkeypatch):
    monkeypatch.setattr(sim, "PROBE_S", 0.0)
    arm.connect()
    motors.pause()
    for _ in range(2000):
        arm.send(JointCommand(HOME_Q, 1.0))
    motors.go_on()


def test_motors_that_are_mute_get_few_commands_and_are_heard_again_when_they_speak(arm, motors, monkeypatch):
    arm.connect()
    motors.answers = False
    for _ in range(1000):
        arm.send(JointCommand(HOME_Q, 1.0))
    until(lambda: len(motors.log) >= 1 + sim.UNANSWERED)
    assert len(motors.log) < 20
    motors.answers = True
    until(lambda: arm.send(JointCommand(HOME_Q, 0.25)) or arm.read().gripper == 0.25)
    for value in (0.3, 0.4, 0.5):
        arm.send(JointCommand(HOME_Q, value))
    read(arm, lambda f: f.gripper == 0.5)


@pytest.fixture
def loop(tmp_path, motors):
    loop = DriverLoop(SETTINGS, SimArm(tmp_path))
    loop.start()
    yield loop
    loop.stop()


def test_the_loop_ticks_and_leaves_the_arm_damped_while_idle(loop, motors):
    until(lambda: loop.state().ticks > 10)
    assert {enabled for enabled, _ in motors.log} == {0}
    assert loop.state().driver.mode is Mode.IDLE


def test_a_loop_that_ends_holds_then_damps(loop, motors):
    assert loop.set_mode(Mode.POLICY) == ""
    until(lambda: motors.enabled == 1)
    loop.stop()
    until(lambda: motors.enabled == 0)
    enabled = [enabled for enabled, _ in motors.log]
    assert sum(enabled[-40:]) > 5 and enabled[-1] == 0


def test_a_lost_arm_is_an_error_until_a_reset_finds_it_again(loop, motors, tmp_path):
    loop.set_mode(Mode.POLICY)
    motors.close()
    until(lambda: "ERROR: simulated motors" in loop.state().driver.reason)
    assert "ERROR" in loop.set_mode(Mode.POLICY)
    assert "start `sim_world" in loop.set_mode(Mode.POLICY, reset=True)
    again = Motors(tmp_path)
    try:
        assert loop.set_mode(Mode.POLICY, reset=True) == ""
        until(lambda: again.enabled == 1)
        assert not loop.state().driver.faults
    finally:
        loop.stop()
        again.close()


def test_a_driver_that_fails_inside_lets_the_arm_damp_and_says_so(loop, motors, monkeypatch):
    loop.set_mode(Mode.POLICY)
    until(lambda: motors.enabled == 1)
    monkeypatch.setattr(loop._driver, "tick", lambda feedback: 1 / 0)
    until(lambda: motors.enabled == 0)
    assert "the driver itself failed: ZeroDivisionError" in loop.state().driver.reason


def test_a_speed_scale_outlives_a_reconnection(loop, motors, tmp_path):
    loop.set_speed_scale(0.5)
    motors.close()
    until(lambda: loop.state().driver.faults)
    again = Motors(tmp_path)
    try:
        assert loop.set_mode(Mode.IDLE, reset=True) == ""
        assert loop._driver._course.speed_scale == 0.5
    finally:
        loop.stop()
        again.close()
