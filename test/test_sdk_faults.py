"""Everything that goes wrong behind the vendor SDK ends in hold or damping with a named fault; docs/safety.md lists
it."""

# ruff: noqa: F811

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sdk_parts import (  # noqa: F401
    NOBODY,
    SDK,
    START,
    Bus,
    bus,
    fault_of,
    held,
    holding,
    l5,
    living,
    reached,
    until,
)

from actdistill_ros.arm import can
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.can import SocketCan
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.emulated.plant import gripper_readout
from actdistill_ros.arm.frames import BRAKE
from actdistill_ros.arm.sdk_arm import SdkArm
from actdistill_ros.control.modes import Mode


def no_power(bus: Bus) -> bool:
    return not any(command.kp for _, command in bus.commands())


# -- before anything is sent: facts of connecting


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eth0", "eth0 is a network card, not a CAN interface"),
        ("enp3s0", "enp3s0 is a network card, not a CAN interface"),
        ("foo", "'foo' must begin with can"),
        ("", "'' must begin with can"),
        ("can0123456789012", "at most 15 characters"),
    ],
)
def test_a_name_that_the_sdk_must_never_see_is_refused(name, words):
    with pytest.raises(ArmError, match=words):
        SdkArm(SocketCan(name), SDK).connect()


def test_an_interface_that_is_not_there_is_refused_with_what_to_do():
    with pytest.raises(ArmError, match="no interface can77 here; .*(slcan|CAN interfaces here)"):
        SdkArm(SocketCan("can77"), SDK).connect()


def test_an_interface_of_another_kind_is_refused(tmp_path, monkeypatch):
    (tmp_path / "can0").mkdir()
    (tmp_path / "can0" / "type").write_text("1\n")
    monkeypatch.setattr(can, "NETWORK", tmp_path)
    with pytest.raises(ArmError, match="can0 is no CAN interface"):
        SdkArm(SocketCan("can0"), SDK).connect()


LINK = {
    "ifname": "can0",
    "flags": ["NOARP", "UP", "LOWER_UP"],
    "linkinfo": {"info_kind": "can", "info_data": {"state": "ERROR-ACTIVE", "bittiming": {"bitrate": 1000000}}},
}


def test_what_ip_says_of_an_interface_is_understood():
    assert can.parse_link(LINK) == can.Link(True, 1_000_000, "error-active", ())
    assert can.link_refusal("can0", can.parse_link(LINK)) == ""
    assert "can0 is down: sudo ip link set can0 down; sudo ip link set can0 up type can bitrate 1000000" in (
        can.link_refusal("can0", can.parse_link({**LINK, "flags": ["NOARP"]}))
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"up": False}, "can0 is down: sudo ip link set can0 down; sudo ip link set can0 up type can bitrate 1000000"),
        ({"bitrate": 500_000}, "can0 has bitrate 500000, the arm's motors have 1000000"),
        ({"bus_off": True}, "can0 is bus-off"),
    ],
)
def test_an_interface_in_another_state_is_refused_before_a_frame_is_sent(bus, fault, words):
    bus.inject(**fault)
    with pytest.raises(ArmError, match=words):
        bus.arm().connect()
    assert not [frame for frame in bus.frames() if frame.pid]


class Leaving(EmulatedCan):
    """An adapter that is pulled while it is listened to."""

    def open(self) -> socket.socket:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        there.close()
        return here


def test_an_adapter_that_is_unplugged_while_it_is_looked_at_is_named(bus):
    with pytest.raises(ArmError, match="can0 went away while it was looked at .*: was the adapter unplugged?"):
        can.preflight(Leaving("can0", bus.folder))


def test_a_second_driver_on_the_bus_is_refused_and_the_first_goes_on(bus):
    loop = holding(bus.loop(), bus)
    with pytest.raises(ArmError, match="can0 is used already by process .*: one driver per arm"):
        SdkArm(EmulatedCan("can0", bus.folder), SDK, emulated=bus.folder).connect()
    assert loop.state().driver.mode is Mode.HOLD and bus.stiff()


def test_motors_without_supply_are_refused_and_reached_once_it_is_back(bus):
    bus.inject(mute=True)
    arm = bus.arm()
    with pytest.raises(ArmError, match="None of the motors are initialized"):
        arm.connect()
    bus.inject(mute=False)
    assert arm.connect().faults == {}
    assert no_power(bus)


@pytest.mark.parametrize("motor", ["joint2", "joint5", "gripper"])
def test_one_silent_motor_is_refused_by_name_before_there_is_power(bus, motor):
    bus.inject(motor=motor, mute=True)
    with pytest.raises(ArmError, match=f"{motor} never answered: check power and cable there"):
        bus.arm().connect()
    assert no_power(bus)


def test_a_gripper_that_reads_outside_its_range_is_refused_with_its_reading(bus):
    bus.inject(motor="gripper", position_rad=gripper_readout(1.2))
    with pytest.raises(ArmError, match="Gripper position error: got 0.106 but should be in 0~0.088"):
        bus.arm().connect()
    assert no_power(bus)


@pytest.mark.parametrize(("made", "told"), [("X5", "L5"), ("L5", "X5")])
def test_the_other_model_is_refused_before_there_is_power(tmp_path, made, told):
    bus = Bus(tmp_path, made)
    try:
        with pytest.raises(ArmError, match=f"joint1 answers as .*, so this is no {told}: pass model:={made}"):
            bus.arm(told).connect()
        assert {frame.data for frame in bus.frames() if frame.pid} == {BRAKE}  # the SDK was not let near it
        np.testing.assert_allclose([bus.real()[f"joint{i + 1}"][0] for i in range(3)], START[:3], atol=1e-3)
    finally:
        bus.close()


# -- while the arm holds under power: the SDK lives on


def test_one_motor_that_falls_silent_is_named_and_held_then_damped(held):
    bus, loop = held
    bus.inject(motor="joint3", mute=True)
    fault_of(loop, "joint3: no answer", Mode.HOLD)
    fault_of(loop, "joint3: no answer", Mode.DAMPING)
    # The mute motor does not hear either; the others are damped.
    until(lambda: not any(c.kp for n, c in bus.last_commands().items() if n != 4), "damping")
    bus.inject(motor="joint3", mute=False)
    until(lambda: not loop.state().driver.faults, "the motor to be back")
    holding(loop, bus)


def test_a_bus_that_falls_silent_is_noticed_though_the_sdk_stamps_its_frozen_state_as_fresh(held):
    bus, loop = held
    bus.inject(mute=True)
    fault_of(loop, "no answer", Mode.HOLD)
    fault_of(loop, "no answer", Mode.DAMPING)
    bus.inject(mute=False)
    until(bus.damped, "damping")


@pytest.mark.parametrize("late_s", [0.07, 0.2])
def test_answers_that_come_late_are_a_fault(held, late_s):
    bus, loop = held
    bus.inject(late_s=late_s)
    fault_of(loop, "answers late")
    assert loop.state().driver.mode in (Mode.HOLD, Mode.DAMPING)
    bus.inject(late_s=0.0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"motor": "joint5", "fault": 10}, "joint5: over-current; free the joint"),
        ({"motor": "joint4", "fault": 9}, "joint4: under-voltage"),
        ({"motor": "gripper", "fault": 13}, "gripper: lost communication"),
        ({"motor": "joint1", "fault": 3}, "joint1: fault code 3"),
        ({"motor": "joint6", "temperature_c": 96.0}, "joint6: driver too hot; let the motor cool down"),
        ({"motor": "joint2", "temperature_c": 96.0}, "joint2: coil too hot"),
    ],
)
def test_what_motors_report_and_the_sdk_hides_is_named_and_held(held, fault, words):
    bus, loop = held
    bus.inject(**fault)
    fault_of(loop, words, Mode.HOLD)


def test_a_joint_outside_its_limits_is_named_though_the_sdk_allows_three_radians(held):
    bus, loop = held
    loop.set_mode(Mode.IDLE)
    until(bus.damped, "damping")
    bus.inject(motor="joint2", position_rad=-0.4)
    fault_of(loop, "joint2: is at -0.4")
    assert "joint2: is at -0.4" in loop.set_mode(Mode.HOLD)
    bus.inject(motor="joint2", position_rad=float(START[1]))


def test_torque_that_the_sdk_does_not_guard_on_damiao_joints_is_a_fault(l5):
    loop = holding(l5.loop(), l5)
    l5.inject(motor="joint5", torque_nm=7.5)
    fault_of(loop, "joint5: over-current", Mode.HOLD)
    fault_of(loop, "joint5: over-current", Mode.DAMPING)
    until(l5.damped, "damping")


# -- while the arm holds under power: the SDK dies or gets stuck


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"motor": "joint2", "torque_nm": 45.0}, "got stuck .* and was killed: Over current detected"),
        ({"motor": "gripper", "torque_nm": 3.0}, "got stuck .* and was killed: Over current detected"),
        ({"motor": "gripper", "position_rad": gripper_readout(1.3)}, "got stuck .* Gripper position error: got 0.11"),
        ({"motor": "joint1", "position_rad": 6.5}, "got stuck .* Joint 0 pos data error: 6."),
    ],
)
def test_an_sdk_that_deadlocks_instead_of_damping_is_killed_and_the_motors_damp(held, fault, words):
    bus, loop = held
    bus.inject(**fault)
    state = until(lambda: loop.state().driver if loop.state().driver.mode is Mode.DAMPING else None, "DAMPING")
    assert re.search(words, state.reason), state.reason
    until(bus.damped, "damping frames")
    bus.inject(heal=True)
    bus.inject(motor="gripper", position_rad=gripper_readout(1.0))
    bus.inject(motor="joint1", position_rad=0.0)


def test_a_motor_that_lost_its_supply_for_a_moment_is_switched_on_by_a_new_connection(held):
    bus, loop = held
    bus.inject(motor="joint6", fault=0)
    fault_of(loop, "ERROR: joint6 switched off by itself", Mode.DAMPING)
    until(bus.damped, "damping frames")
    bus.inject(heal=True)
    reached(loop)
    holding(loop, bus)


@pytest.mark.parametrize("identifier", [0x123, 8, 0x20000004, 0x80000005])
def test_a_foreign_frame_aborts_the_sdk_and_the_motors_damp(held, identifier):
    bus, loop = held
    bus.inject(foreign=identifier)
    state = until(lambda: loop.state().driver if loop.state().driver.mode is Mode.DAMPING else None, "DAMPING")
    assert "ERROR: the vendor SDK was killed by SIGABRT" in state.reason
    if identifier != 8:  # that is a motor's own id
        assert f"id 0x{identifier & 0x1FFFFFFF:X} that belongs to no motor" in state.reason
    until(bus.damped, "damping frames")


def test_no_core_dump_delays_the_end_of_an_sdk_that_aborts(held):
    bus, _ = held
    limits = Path(f"/proc/{bus.processes()['sdk_child']}/limits").read_text()
    assert re.search(r"^Max core file size +[01] ", limits, re.MULTILINE)


def test_bus_off_is_named_with_the_command_that_mends_it_and_the_motors_damp_when_the_bus_is_back(held):
    bus, loop = held
    bus.inject(bus_off=True)
    state = until(lambda: loop.state().driver if loop.state().driver.mode is Mode.DAMPING else None, "DAMPING")
    assert (
        "ERROR: can0 is bus-off" in state.reason and "sudo ip link set can0 up type can bitrate 1000000" in state.reason
    )
    assert "bus-off" in loop.set_mode(Mode.IDLE, reset=True)
    assert bus.stiff()  # nothing can reach the motors while it lasts
    bus.inject(bus_off=False)
    until(bus.damped, "damping frames")
    reached(loop)
    holding(loop, bus)


def test_an_adapter_that_is_unplugged_is_named(bus):
    loop = holding(bus.loop(), bus)
    bus.unplug()
    fault_of(loop, "ERROR: can0 is gone: was the adapter unplugged?", Mode.DAMPING)
    assert "no emulated bus at" in loop.set_mode(Mode.IDLE, reset=True)


def test_motors_that_could_not_be_damped_are_told_to_the_terminal_once_the_driver_has_left(bus, capfd):
    loop = holding(bus.loop(), bus)
    bus.unplug()
    fault_of(loop, "ERROR: can0 is gone", Mode.DAMPING)
    loop.stop()
    until(lambda: not bus.processes(), "the end of the guard")
    told = "ERROR: the motors on can0 did not acknowledge damping and may hold their last position: cut their power"
    assert capfd.readouterr().err.count(told) == 1


def test_a_motor_that_took_no_damping_is_named_on_the_terminal(bus, capfd):
    loop = holding(bus.loop(), bus)
    bus.inject(motor="joint3", mute=True)
    fault_of(loop, "joint3: no answer")
    loop.stop()
    until(lambda: not bus.processes(), "the end of the guard")
    told = "ERROR: joint3 on can0 did not acknowledge damping and may hold their last position: cut their power"
    assert capfd.readouterr().err.count(told) == 1


def test_a_guard_in_a_killed_one_s_place_that_cannot_reach_the_motors_tells_it(tmp_path, capfd):
    mine, theirs = socket.socketpair()
    command = [sys.executable, "-m", "actdistill_ros.arm.guard", "--settings", SDK.to_json(), "--interface", "can0"]
    command += ["--emulated", str(tmp_path), "--after", str(NOBODY), "--fd", str(theirs.fileno())]
    with mine, theirs:
        done = subprocess.run(command, pass_fds=(theirs.fileno(),))
    assert done.returncode == 1
    told = capfd.readouterr().err
    assert "did not acknowledge damping" in told and "no emulated bus at" in told


def test_a_driver_that_sends_nonsense_loses_the_arm_damped(held, monkeypatch):
    bus, loop = held
    monkeypatch.setattr(loop._driver, "tick", lambda feedback: 1 / 0)
    fault_of(loop, "the driver itself failed: ZeroDivisionError", Mode.DAMPING)
    until(bus.damped, "damping")


def test_what_the_sdk_does_wrong_when_it_is_called_is_not_called():
    source = (Path(__file__).parents[1] / "actdistill_ros" / "arm" / "sdk_child.py").read_text()
    for name in ("reset_to_home", "set_eef", "set_joint_traj", "calibrate", "send_recv_once", "background_send_recv"):
        assert name not in source


def test_every_fault_that_the_page_lists_has_its_test():
    root = Path(__file__).parent
    listed = set(re.findall(r"`(test_[a-z0-9_]+)`", (root.parent / "docs" / "safety.md").read_text()))
    written = {
        name
        for file in root.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(listed) > 30 and not listed - written
