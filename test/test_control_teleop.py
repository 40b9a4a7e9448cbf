"""The operator always wins: takes over within a tick, without a jump, and gives the arm back only when asked."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action, turned
from test_control_motion import derivatives

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.operator import Twist

clearance, forward, jacobian = X5.body.clearance, X5.chain.forward, X5.chain.jacobian

HOME = forward(HOME_Q)


def twist(bench: Bench, x=0.0, y=0.0, z=0.0, rx=0.0, ry=0.0, rz=0.0, tool=False, age_s=0.0) -> Twist:
    return Twist(np.array([x, y, z]), np.array([rx, ry, rz]), tool, bench.clock.now_s - age_s)


def press(bench: Bench, seconds: float, **wanted) -> None:
    """The operator holds the dead-man and asks for a twist, 50 times a second."""
    for _ in range(round(seconds / 0.02)):
        bench.driver.deadman(True)
        assert bench.driver.jog(twist(bench, **wanted)) == ""
        bench.run(0.02)


def release(bench: Bench, seconds: float = 0.02) -> None:
    for _ in range(round(seconds / 0.02)):
        bench.driver.deadman(False)
        bench.run(0.02)


@pytest.fixture
def bench() -> Bench:
    bench = Bench().activate()
    release(bench)
    return bench


def moving(bench: Bench) -> Bench:
    """In the middle of an action of the policy, at full speed."""
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 5))
    bench.run(0.15)
    return bench


def test_the_dead_man_takes_a_moving_arm_from_the_policy_within_one_tick_and_says_so(bench):
    moving(bench).driver.deadman(True)
    tick = bench.tick()
    assert tick.mode is Mode.TELEOP
    assert "TELEOP: teleop took over from policy: the dead-man is held" in tick.events
    assert bench.state.source == "teleop" and bench.state.actions_left == 0
    assert "the mode is TELEOP" in bench.driver.offer(bench.chunk(action(x=0.01)))


def test_a_hand_over_is_no_jump_in_either_direction():
    bench = Bench()
    bench.activate()
    release(bench)
    bench.commands.clear()
    for _ in range(3):
        bench.driver.offer(bench.chunk(*[action(x=0.02, rz=0.1)] * 3))
        bench.run(0.17)
        press(bench, 0.4, x=-0.2, y=0.1, rz=-0.8)
        release(bench)
        assert bench.driver.set_mode(Mode.POLICY) == ""  # while it still brakes
        bench.driver.offer(bench.chunk(*[action(y=-0.02)] * 2))
        bench.run(0.25)
    speed, acceleration, jerk = derivatives(bench.commands, SETTINGS.tick_s)
    assert speed <= 1.0 and acceleration <= 1.0 + 1e-6 and jerk <= 1.0 + 1e-6


def test_teleop_goes_on_from_where_the_policy_had_brought_the_arm(bench):
    moving(bench)
    before = forward(bench.q).position_m
    press(bench, 0.1)
    assert np.linalg.norm(forward(bench.q).position_m - before) < 0.02
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, forward(bench.q).position_m, atol=1e-3)


def test_the_policy_gets_the_arm_back_only_when_asked_and_only_from_where_it_is(bench):
    moving(bench)
    press(bench, 0.5, y=0.1)
    refused = bench.driver.set_mode(Mode.POLICY)
    assert "teleop commands the arm and goes before the policy: let go of the dead-man" in refused
    release(bench, 2.0)
    assert bench.state.mode is Mode.TELEOP and "the dead-man is not held" in bench.state.reason
    there = forward(bench.q).position_m
    assert bench.driver.set_mode(Mode.POLICY) == ""
    bench.run(0.3)
    np.testing.assert_allclose(forward(bench.q).position_m, there, atol=1e-6)
    bench.driver.offer(bench.chunk(action(x=0.01)))
    bench.run(0.1)
    np.testing.assert_allclose(forward(bench.q).position_m, there + [0.01, 0.0, 0.0], atol=1e-4)


def test_a_jog_moves_the_tcp_straight_at_its_speed(bench):
    press(bench, 0.5, y=0.1)
    start = forward(bench.q).position_m
    press(bench, 1.0, y=0.1)
    np.testing.assert_allclose(forward(bench.q).position_m - start, [0.0, 0.1, 0.0], atol=1e-3)
    assert turned(forward(bench.q).rotation, HOME.rotation) < 2e-3


def test_a_jog_in_the_frame_of_the_tool_follows_the_gripper(bench):
    press(bench, 0.5, x=0.05, tool=True)  # its x points down
    moved = forward(bench.q).position_m - HOME.position_m
    assert moved[2] < -0.015 and abs(moved[0]) < 1e-3 and abs(moved[1]) < 1e-3


def test_a_turn_of_half_a_milliradian_a_tick_adds_up_on_the_commanded_pose(bench):
    press(bench, 5.0, rz=0.05)
    assert turned(forward(bench.q).rotation, HOME.rotation) == pytest.approx(0.25, abs=0.005)
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m, atol=1e-4)
    assert np.linalg.norm(forward(bench.q).rotation[:, 0] - HOME.rotation[:, 0]) < 1e-3  # still points down


def test_a_long_rotation_arrives_at_its_angle_without_moving_the_tcp(bench):
    press(bench, 2.4, rz=0.25)
    release(bench, 0.2)
    assert turned(forward(bench.q).rotation, HOME.rotation) == pytest.approx(0.6, abs=0.03)
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m, atol=1e-3)


def test_a_twist_without_the_dead_man_moves_nothing(bench):
    bench.driver.set_mode(Mode.TELEOP)
    for _ in range(20):
        bench.driver.deadman(False)
        bench.driver.jog(twist(bench, x=0.1))
        bench.run(0.02)
    np.testing.assert_allclose(bench.q, HOME_Q, atol=1e-9)
    assert bench.state.mode is Mode.TELEOP


def test_letting_go_stops_the_arm_within_a_tenth_of_a_second(bench):
    press(bench, 1.0, y=0.2)
    release(bench, 0.1)
    there = bench.q.copy()
    release(bench, 0.5)
    np.testing.assert_array_equal(bench.q, there)


def test_a_jog_faster_than_allowed_is_as_fast_as_allowed(bench):
    press(bench, 0.4, y=1e9)
    v = np.diff([forward(q).position_m for q in bench.commands], axis=0) / SETTINGS.tick_s
    assert 0.5 * SETTINGS.jog_speed_m_s < np.linalg.norm(v, axis=1).max() < 1.05 * SETTINGS.jog_speed_m_s


def test_a_teleop_that_falls_silent_holds_then_damps(bench):
    press(bench, 0.5, y=0.1)
    bench.run(SETTINGS.teleop_timeout_s + 0.2)
    assert bench.state.mode is Mode.HOLD and "teleop silent for 0.4 s: check the teleop node" in bench.state.reason
    there = bench.q.copy()
    bench.run(SETTINGS.teleop_hold_to_damping_s - 1.0)
    assert bench.state.mode is Mode.HOLD and np.array_equal(bench.q, there)
    tick = bench.run(1.0)
    assert tick.mode is Mode.DAMPING and tick.command is None and "held for 30 s: teleop silent" in tick.reason


def test_a_twist_that_goes_stale_under_a_held_dead_man_stops_the_arm(bench):
    press(bench, 0.5, y=0.1)
    for _ in range(30):
        bench.driver.deadman(True)
        bench.run(0.02)
    there = bench.q.copy()
    bench.driver.deadman(True)
    bench.run(0.1)
    np.testing.assert_allclose(bench.q, there, atol=1e-4)
    assert bench.state.mode is Mode.TELEOP


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"x": float("nan")}, "twist is not finite"),
        ({"rz": float("inf")}, "twist is not finite"),
        ({"age_s": 0.5}, "stale twist: 0.50 s old, expected at most 0.2 s"),
        ({"age_s": -1.0}, "1.000 s in the future"),
        ({"age_s": 1000.5}, "expected the time of sending: make the publisher fill header.stamp"),
    ],
)
def test_a_twist_that_makes_no_sense_stops_the_arm_until_the_dead_man_is_pressed_anew(bench, bad, words):
    press(bench, 0.3, y=0.1)
    assert words in bench.driver.jog(twist(bench, **bad))
    assert bench.state.mode is Mode.HOLD and words in bench.state.reason
    press(bench, 0.2, y=0.1)
    assert bench.state.mode is Mode.HOLD
    release(bench)
    press(bench, 0.1, y=0.1)
    assert bench.state.mode is Mode.TELEOP


def test_an_emergency_stop_goes_before_teleop_and_a_held_dead_man_does_not_move_the_arm_after_a_reset(bench):
    press(bench, 0.3, y=0.1)
    bench.driver.set_mode(Mode.ESTOP)
    press(bench, 0.2, y=0.1)
    assert bench.state.mode is Mode.ESTOP and bench.tick().command is None
    assert "latched" in bench.driver.set_mode(Mode.TELEOP)
    assert bench.driver.set_mode(Mode.TELEOP, reset=True) == ""
    there = bench.q.copy()
    press(bench, 0.2, y=0.1)
    np.testing.assert_array_equal(bench.q, there)
    release(bench)
    press(bench, 0.2, y=0.1)
    assert bench.q[0] != there[0]


def test_a_dead_man_that_was_held_when_teleop_came_up_must_be_let_go_first():
    bench = Bench().activate()
    press(bench, 0.3, y=0.1)
    assert bench.state.mode is Mode.POLICY
    release(bench)
    press(bench, 0.04, y=0.1)
    assert bench.state.mode is Mode.TELEOP


@pytest.mark.parametrize("mode", [Mode.IDLE, Mode.ESTOP])
def test_the_dead_man_gives_no_torque_to_a_limp_arm(bench, mode):
    bench.driver.set_mode(mode)
    release(bench)
    press(bench, 0.2, y=0.1)
    assert bench.state.mode is mode and bench.tick().command is None


def test_a_motor_fault_ends_teleop_in_hold_then_damping(bench):
    press(bench, 0.3, y=0.1)
    bench.faults = {"joint3": "coil too hot"}
    press(bench, 0.1, y=0.1)
    assert bench.state.mode is Mode.HOLD and "coil too hot" in bench.state.reason
    press(bench, SETTINGS.hold_to_damping_s, y=0.1)
    assert bench.state.mode is Mode.DAMPING


def test_a_request_for_hold_is_kept_until_the_dead_man_is_pressed_anew(bench):
    press(bench, 0.3, y=0.1)
    bench.driver.set_mode(Mode.HOLD)
    press(bench, 0.3, y=0.1)
    assert bench.state.mode is Mode.HOLD and bench.state.reason == "asked to hold"


@pytest.mark.parametrize(
    "wanted", [{"z": -0.2}, {"x": 0.2}, {"x": -0.2}, {"y": 0.2}, {"y": -0.2, "z": -0.1, "x": 0.05}]
)
def test_a_jog_into_a_border_slides_to_it_softly_and_never_over_it(bench, wanted):
    bench.commands.clear()
    press(bench, 4.0, **wanted)
    at = np.array([forward(q).position_m for q in bench.commands])
    assert np.all(at >= SETTINGS.workspace_min_m - 0.0006) and np.all(at <= SETTINGS.workspace_max_m + 0.0006)
    assert all(clearance(q, SETTINGS.table_z_m).distance_m >= SETTINGS.self_clearance_m - 1e-3
               for q in bench.commands[::20])  # fmt: skip
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6
    press(bench, 0.5, x=-wanted.get("x", 0.0), y=-wanted.get("y", 0.0), z=-wanted.get("z", 0.0))
    assert np.linalg.norm(forward(bench.q).position_m - at[-1]) > 0.03  # and it can leave again


def test_a_jog_to_a_singularity_slows_down_says_why_and_can_leave():
    bench = Bench(workspace_x_m=(0.0, 0.8), workspace_y_m=(-0.6, 0.6), workspace_top_m=0.6)
    bench.q = np.array([0.0, 1.5, 1.2, -0.5, 1.2, 0.0])
    bench.tick()
    bench.activate()
    release(bench)
    bench.commands.clear()
    axis = jacobian(bench.q)[:, 4]  # what the fifth joint alone does: its end is a singularity of the wrist
    wanted = dict(zip(("x", "y", "z", "rx", "ry", "rz"), axis.tolist()))
    press(bench, 1.5, **wanted)
    assert any("jog slowed: close to a singularity" in event for event in bench.events)
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6
    near = bench.q[4]
    press(bench, 1.5, **{name: -value for name, value in wanted.items()})
    assert near > 1.3 and bench.q[4] < near - 0.2


def test_a_jog_against_a_joint_limit_stops_before_it(bench):
    press(bench, 4.0, rz=0.8)
    assert bench.q[5] <= 2.0 and bench.q[0] >= -3.14
    assert any("is close to its limit" in event or "is at its limit" in event for event in bench.events)
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_the_operator_moves_the_gripper_in_teleop_and_hold_only(bench):
    assert "ask for mode HOLD or TELEOP first" in bench.driver.grip(0.0)
    press(bench, 0.1)
    assert bench.driver.grip(0.0) == ""
    bench.tick()
    assert bench.gripper == 0.0
    assert "expected 0 (closed) … 1 (open)" in bench.driver.grip(float("nan"))
    assert "expected 0 (closed) … 1 (open)" in bench.driver.grip(90.0)
