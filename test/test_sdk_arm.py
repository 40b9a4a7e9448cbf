"""The unmodified vendor SDK on the emulated bus: what it does well, and what must never reach the motors."""

# ruff: noqa: F811

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sdk_parts import SDK, START, bus, kill, l5, sweep, until  # noqa: F401

from actdistill_ros.arm.backend import ArmError, JointCommand
from actdistill_ros.arm.sdk_arm import OPEN_READOUT_RAD
from actdistill_ros.control.modes import Mode

ANSWER = 25.0 / 65535  # one step of a position on the wire [rad]


@pytest.mark.parametrize("model", ["bus", "l5"])
def test_the_arm_follows_both_models_motors_and_comes_to_rest_damped(request, model):
    bus = request.getfixturevalue(model)
    arm = bus.arm()
    feedback = arm.connect()
    np.testing.assert_allclose(feedback.position_rad, START, atol=0.02)
    assert feedback.gripper == pytest.approx(1.0, abs=0.01)
    until(lambda: arm.read().faults == {}, "no fault")
    assert not any(command.kp for _, command in bus.commands())
    sweep(arm, 1.0)
    for _ in range(20):
        arm.send(JointCommand(START + 0.1, 0.3))
        time.sleep(0.01)
    until(lambda: np.abs(arm.read().position_rad - START - 0.1).max() < 0.02, "the arm to arrive")
    arm.close()
    assert bus.damped()


def test_the_emulated_bus_says_that_it_is_ready_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "actdistill_ros.arm.emulated.bus", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert (first, rest, process.returncode) == ("ready\n", "", 0)


def test_feedback_is_what_the_motors_answered_and_no_older(bus):
    arm = bus.arm()
    arm.connect()
    feedback, real = arm.read(), bus.real()
    for index in range(6):
        assert feedback.position_rad[index] == pytest.approx(real[f"joint{index + 1}"][0], abs=0.01)
    assert feedback.gripper == pytest.approx(real["gripper"][0] / OPEN_READOUT_RAD, abs=0.01)
    stamp_s = arm.read().stamp_s
    assert 0.0 <= time.time() - stamp_s < SDK.answer_timeout_s


def test_every_motor_tells_when_it_answered_and_a_mute_one_ages(bus):
    arm = bus.arm()
    before = arm.connect()
    bus.inject(motor="joint4", mute=True)
    after = until(lambda: feedback if (feedback := arm.read()).faults else None, "the fault")
    assert after.faults == {"joint4": "no answer"} and after.stamp_s == after.motor_stamps_s[3]
    moved = np.subtract(after.motor_stamps_s, before.motor_stamps_s)
    assert moved[3] < 0.09 < SDK.answer_timeout_s * 0.9 < min(np.delete(moved, 3))


def test_power_comes_on_gently_and_where_the_arm_is(bus):
    loop = bus.loop()
    loop.set_mode(Mode.HOLD)
    until(bus.stiff, "power")
    joint2 = [command for record, command in bus.commands() if record.id == 2]
    gains = [command.kp for command in joint2 if command.kp > 0.0]
    assert gains[0] < 0.6 * SDK.kp[1] and max(np.diff(gains)) < 0.5 * SDK.kp[1]
    assert max(abs(c.position_rad - START[1]) for c in joint2 if c.kp > 0.0) < 0.02


def test_power_comes_on_gently_also_where_the_sdk_process_was_put_aside_meanwhile(bus):
    arm = bus.arm(silence_timeout_s=5.0, answer_timeout_s=5.0, heartbeat_timeout_s=5.0)
    arm.connect()

    def gains() -> list[float]:
        arm.send(JointCommand(START, 1.0))
        time.sleep(0.005)
        return [command.kp for record, command in bus.commands() if record.id == 2 and command.kp > 0.0]

    until(gains, "the first power")
    process = bus.processes()["sdk_child"]
    kill(process, signal.SIGSTOP)
    time.sleep(2 * SDK.stiffen_s)
    kill(process, signal.SIGCONT)
    until(lambda: gains()[-1] == pytest.approx(SDK.kp[1], rel=0.01), "all of the power")
    assert max(np.diff(gains())) < 0.25 * SDK.kp[1]


def test_a_target_from_before_is_not_run_to_when_power_comes_back(bus):
    arm = bus.arm()
    arm.connect()
    sweep(arm, 0.3)
    arm.damp()
    until(bus.damped, "damping")
    until(lambda: arm.damp() or np.abs(arm.read().velocity_rad_s).max() < 0.08, "the arm at rest")
    before, mark = bus.last_commands()[1].position_rad, time.monotonic()
    bus.inject(motor="joint1", position_rad=before + 0.15)
    until(lambda: arm.damp() or arm.read().position_rad[0] > before + 0.1, "the arm moved by hand")
    # No hand moves an arm by 0.15 rad at once; the command follows a limp one at the motors' highest speed.
    until(lambda: arm.damp() or bus.last_commands()[1].position_rad > before + 0.1, "the command at the arm")
    here = arm.read().position_rad
    for _ in range(30):
        arm.send(JointCommand(here, 1.0))
        time.sleep(0.01)
        arm.read()
    targets = [c.position_rad for r, c in bus.commands() if r.id == 1 and r.time_s > mark and c.kp > 0.0]
    assert len(targets) > 20 and min(targets) > before + 0.08


def test_a_target_far_from_the_arm_is_refused_when_power_comes_on(bus):
    arm = bus.arm()
    arm.connect()
    with pytest.raises(ArmError, match="the first target is 1.00 rad from where the arm is, expected at most 0.06 rad"):
        until(lambda: arm.send(JointCommand(START + 1.0, 1.0)) or arm.read() is None, "the refusal")
    until(bus.damped, "damping")
    assert not any(command.kp for _, command in bus.commands())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_never_reaches_the_bus(bus, bad):
    arm = bus.arm()
    arm.connect()
    sweep(arm, 0.1)
    with pytest.raises(ValueError, match="not finite"):
        arm.send(JointCommand(np.array([bad, 1, 1, 0, 0, 0]), 1.0))
    with pytest.raises(ValueError, match="not finite"):
        arm.send(JointCommand(START, bad))
    arm.damp()
    stiff = [abs(command.position_rad) for _, command in bus.commands() if command.kp > 0.0]
    assert stiff and max(stiff) < 5.1


def test_targets_beyond_the_limits_stay_inside_and_below_the_top_speed(bus):
    arm = bus.arm(over_current_s=10.0)
    arm.connect()
    sweep(arm, 0.1)
    for _ in range(60):
        arm.send(JointCommand(np.array([9.0, 1.0, 1.0, -0.5, 9.0, -9.0]), 7.0))
        time.sleep(0.01)
    low, high = np.array([-3.14, -0.05, -0.1, -1.6, -1.57, -2.0]), np.array([2.618, 3.5, 3.2, 1.55, 1.57, 2.0])
    for number, index in ((1, 0), (6, 4), (7, 5)):
        track = [(r.time_s, c.position_rad) for r, c in bus.commands() if r.id == number and c.kp > 0.0]
        positions = np.array([position for _, position in track])
        assert positions.min() > low[index] - ANSWER and positions.max() < high[index] + ANSWER
        assert np.abs(np.diff(positions)).max() < 5.5 * SDK.cycle_s + 2 * ANSWER
    assert max(c.position_rad for r, c in bus.commands() if r.id == 8) < OPEN_READOUT_RAD + ANSWER


def test_a_driver_that_falls_silent_is_held_and_then_damped(bus):
    arm = bus.arm()
    arm.connect()
    sweep(arm, 0.2)
    silent_s = time.monotonic()
    until(bus.damped, "damping", 3.0)
    held = [r.time_s for r, c in bus.commands() if c.kp > 0.0][-1] - silent_s
    assert SDK.command_timeout_s < held < SDK.command_timeout_s + SDK.hold_to_damping_s + 0.9
    arm.send(JointCommand(arm.read().position_rad, 1.0))
    until(bus.stiff, "power again")


def test_settings_with_a_typo_or_a_wrong_value_are_refused(tmp_path):
    from actdistill_ros.arm import sdk_settings
    from actdistill_ros.control.settings import share_file

    text = share_file(sdk_settings.FILE).read_text()
    file = tmp_path / "sdk.yaml"
    for old, new, words in (
        ("gripper_kp:", "griper_kp:", "lacks gripper_kp"),
        ("cycle_s", "colour: red\ncycle_s", "has unknown colour; known are"),
        ("cycle_s", "model: L5\ncycle_s", "has unknown model; known are"),
        ("cycle_s: 0.002", "cycle_s: 0", "cycle_s is 0, expected a number above 0"),
        ("damping_kd: [2.0,", "damping_kd: [20.0,", "damping_kd is .* at most 5"),
    ):
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(ArmError, match=words):
            sdk_settings.load(file)


def test_limits_of_the_guard_are_those_of_the_driver_and_of_the_sdk():
    import arx5_interface as sdk

    from actdistill_ros.arm import bus_monitor
    from actdistill_ros.control import limits

    config = sdk.RobotConfigFactory.get_instance().get_config("X5")
    for ours, drivers, theirs in (
        (bus_monitor.LIMIT_MIN, limits.JOINT_MIN, config.joint_pos_min),
        (bus_monitor.LIMIT_MAX, limits.JOINT_MAX, config.joint_pos_max),
        (bus_monitor.TORQUE_MAX[:6], limits.JOINT_TORQUE_MAX, config.joint_torque_max),
    ):
        np.testing.assert_allclose(ours, drivers)
        np.testing.assert_allclose(ours, theirs)
    np.testing.assert_allclose(limits.JOINT_VELOCITY_MAX, config.joint_vel_max)
    assert OPEN_READOUT_RAD == config.gripper_open_readout and limits.GRIPPER_WIDTH_M == config.gripper_width
    assert bus_monitor.TORQUE_MAX[6] == config.gripper_torque_max
