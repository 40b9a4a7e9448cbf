"""The planned velocity travels to the motors, as far as the targets bear it out, and ends with the motion."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from arm_parts import SETTINGS, Bench, action
from sdk_parts import START, bus, until  # noqa: F401

from actdistill_ros.arm import sdk_child
from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.backend import JointCommand
from actdistill_ros.bench import bus_fuzz

STILL = 0.02  # on the wire there is no zero


def send(arm, turn_rad: float, speed_rad_s: float) -> None:
    """Joint 1 at `turn_rad` from the start and `speed_rad_s`, one tick long."""
    velocity = np.array([speed_rad_s, 0.0, 0.0, 0.0, 0.0, 0.0])
    arm.send(JointCommand(START + np.array([turn_rad, 0.0, 0.0, 0.0, 0.0, 0.0]), 1.0, velocity))
    time.sleep(0.01)
    arm.read()


def velocities(bus, since_s: float = 0.0) -> list[float]:  # noqa: F811
    return [c.velocity_rad_s for r, c in bus.commands() if r.id == 1 and c.kp > 0.0 and r.time_s > since_s]


def test_velocity_is_fed_forward_and_ends_with_the_motion(bus):  # noqa: F811
    arm = bus.arm()
    arm.connect()
    for tick in range(40):
        send(arm, 0.008 * tick, 0.8)
    # As planned, and not as unsteady as the times at which targets happened to be sent.
    assert max(velocities(bus)) == pytest.approx(0.8, abs=STILL)
    # Nobody commands any more: a velocity that stays would push the arm on.
    until(lambda: abs(bus.last_commands()[1].velocity_rad_s) < STILL, "the velocity to end", 1.0)


def test_a_velocity_ends_before_the_driver_counts_as_silent(bus):  # noqa: F811
    arm = bus.arm(command_timeout_s=5.0)
    arm.connect()
    for tick in range(40):
        send(arm, 0.008 * tick, 0.8)
    until(lambda: abs(bus.last_commands()[1].velocity_rad_s) < STILL, "the velocity to end", 1.0)
    assert bus.last_commands()[1].kp > 0.0


def test_a_velocity_that_the_targets_do_not_bear_out_is_cut_to_what_they_do(bus):  # noqa: F811
    arm = bus.arm(over_current_s=10.0)
    arm.connect()
    for tick in range(30):
        send(arm, 0.001 * tick, 5.0)
    sent = velocities(bus)
    assert 0.5 < max(sent) < sdk_child.ASTRAY_RAD_S + 0.5


def test_an_arm_that_is_to_stay_where_it_is_gets_no_velocity_whatever_is_said_with_it(bus):  # noqa: F811
    arm = bus.arm()
    arm.connect()
    for _ in range(30):
        send(arm, 0.0, 3.0)
    assert np.abs(velocities(bus)).max() < STILL


def test_a_velocity_that_is_no_number_never_reaches_the_bus(bus):  # noqa: F811
    arm = bus.arm()
    arm.connect()
    with pytest.raises(ValueError, match="not finite"):
        send(arm, 0.0, float("nan"))


def test_the_bench_finds_a_velocity_above_the_top_speed():
    checker = bus_fuzz.FrameChecker()
    checker._check_velocity(0, np.array([0.0, -5.5]))
    assert checker.violations == ["joint1 was sent a velocity of 5.50 rad/s"] and checker.velocities[0] == 5.5


def test_damping_that_a_newer_target_overtakes_is_not_lost():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    follow = wire.COMMAND.pack(b"C", wire.FOLLOW, 3, 0.0, *wire.NOWHERE)
    for message in (wire.COMMAND.pack(b"C", wire.DAMP, 2, 0.0, *wire.NOWHERE), follow):
        wire.give(ours, message)
    assert sdk_child._newest(theirs) == (follow, True)
    wire.give(ours, follow)
    assert sdk_child._newest(theirs) == (follow, False)
    ours.close()
    assert sdk_child._newest(theirs) == (b"", False)
    theirs.close()


def test_commands_of_the_driver_carry_the_velocity_of_their_motion_and_none_at_rest():
    bench = Bench().activate()
    bench.driver.offer(bench.chunk(*[action(x=0.015, rz=0.05)] * 3))
    ticks = [bench.tick().command for _ in range(40)]
    q, v = np.array([t.position_rad for t in ticks]), np.array([t.velocity_rad_s for t in ticks])
    # The planned velocity is the slope of the targets, but for what an acceleration changes within a tick.
    within = SETTINGS.joint_acceleration_limit_rad_s2 * SETTINGS.tick_s
    assert np.abs(np.diff(q, axis=0) / SETTINGS.tick_s - v[1:]).max() < within
    assert np.abs(v).max() > 0.2 and not v[-1].any()
    assert np.abs(v).max() <= SETTINGS.joint_speed_limit.max()
