"""The arm, and the stop that could follow at any moment, keep inside the workspace and apart from each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action
from test_control_motion import derivatives
from test_control_teleop import press, release

from actdistill_ros.bench.fuzz import Fuzz
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.motion import JointState, MotionLimits, Planner, stopping_ways
from actdistill_ros.control.room import BORDER_M, Room

clearance, clearances, forward, jacobian, many_link_frames, tcp_positions = (
    X5.body.clearance,
    X5.body.clearances,
    X5.chain.forward,
    X5.chain.jacobian,
    X5.chain.many_link_frames,
    X5.chain.tcp_positions,
)

LIMITS = MotionLimits(
    SETTINGS.joint_speed_limit,
    np.full(6, SETTINGS.joint_acceleration_limit_rad_s2),
    np.full(6, SETTINGS.joint_jerk_limit_rad_s3),
)
SLACK_M = BORDER_M + 0.0002  # and what is between two moments that were looked at


def outside_m(commands: list[np.ndarray], settings=SETTINGS) -> float:
    """How far the TCP was outside the workspace at worst [m]; negative if it kept inside."""
    at = tcp_positions(*many_link_frames(np.array(commands)))
    return float(np.max(np.maximum(settings.workspace_min_m - at, at - settings.workspace_max_m)))


def at_top(depth_m: float = 0.0) -> Bench:
    """Under the policy, `depth_m` below the upper border of the workspace."""
    bench = Bench(workspace_top_m=float(forward(HOME_Q).position_m[2]) + depth_m).activate()
    bench.commands.clear()
    return bench


def test_stops_that_are_looked_at_are_those_that_are_planned():
    planner, rng = Planner(LIMITS), np.random.default_rng(0)
    for share in (0.0, 0.01, 1.0):
        v = rng.uniform(-1.0, 1.0, (40, 6)) * LIMITS.speed
        a = rng.uniform(-share, share, (40, 6)) * LIMITS.acceleration
        ways = stopping_ways(v, a, LIMITS, 3)
        for t in range(len(v)):
            stop = planner.stop(JointState(np.zeros(6), v[t], a[t]))
            for k in range(3):
                np.testing.assert_allclose(ways[k, t], stop.at(stop.duration_s * (k + 1) / 3).q, atol=1e-12)


def test_many_clearances_are_each_of_them():
    q = np.random.default_rng(0).uniform(JOINT_MIN, JOINT_MAX, (200, 6))
    expected = [clearance(one, SETTINGS.table_z_m).distance_m for one in q]
    np.testing.assert_allclose(clearances(*many_link_frames(q), SETTINGS.table_z_m), expected, atol=1e-12)


def test_a_motion_whose_stop_would_leave_the_workspace_is_refused_while_its_place_is_inside():
    bench = at_top(0.002)
    room = Room.around(HOME_Q, bench.settings, LIMITS)
    still = np.zeros((1, 6))
    assert room.refusal(HOME_Q[None], still, still) == ""
    up = np.linalg.solve(jacobian(HOME_Q), [0.0, 0.0, 0.5, 0.0, 0.0, 0.0])[None]
    assert "border of the workspace along z" in room.refusal(HOME_Q[None], up, still)
    assert room.refusal(HOME_Q[None], -up, still) == ""


def test_a_motion_that_could_not_stop_before_a_joint_limit_is_refused():
    room = Room.around(HOME_Q, SETTINGS, LIMITS)
    q, v = HOME_Q.copy(), np.zeros(6)
    q[5], v[5] = 1.99, 4.0
    assert room.refusal(q[None], v[None], np.zeros((1, 6))) == "joint6 is at its limit"


def test_a_way_that_would_bulge_over_the_border_is_taken_in_parts_and_arrives():
    bench = at_top()
    bench.driver.offer(bench.chunk(action(x=0.045, ry=-0.25), action(x=-0.045, ry=0.25)))
    bench.run(3.0)
    assert bench.state.actions_done == 2 and outside_m(bench.commands, bench.settings) <= SLACK_M
    assert any("slower and in parts, for otherwise the TCP is at the border" in event for event in bench.events)
    np.testing.assert_allclose(forward(bench.q).position_m, forward(HOME_Q).position_m, atol=1e-5)
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


@pytest.mark.parametrize("after_ticks", range(1, 11))
def test_a_hold_at_any_moment_of_the_fastest_actions_along_a_border_ends_inside(after_ticks):
    bench = at_top()
    bench.driver.offer(bench.chunk(*[action(x=0.04, y=0.02, ry=-0.2), action(y=-0.045, rz=0.29)] * 2))
    for _ in range(12):
        bench.run(after_ticks * SETTINGS.tick_s)
        bench.driver.set_mode(Mode.HOLD)
        bench.run(0.12)
        bench.driver.set_mode(Mode.POLICY)
        bench.driver.offer(bench.chunk(action(x=-0.04, z=0.02, ry=0.2), action(y=0.045, rz=-0.29)))
    assert outside_m(bench.commands, bench.settings) <= SLACK_M
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_a_policy_that_pushes_against_every_border_never_gets_over_it():
    bench, rng = Bench().activate(), np.random.default_rng(3)
    bench.commands.clear()
    for _ in range(60):
        move, turn = rng.normal(size=3), rng.normal(size=3)
        step = [*(0.0499 * move / np.linalg.norm(move)), *(rng.choice([0.0, 0.29]) * turn / np.linalg.norm(turn)), 1.0]
        for _ in range(6):
            bench.driver.offer(bench.chunk(step, step, step, period_s=float(rng.choice([0.02, 0.05, 0.1]))))
            bench.run(float(rng.choice([0.03, 0.1, 0.2])))
    assert outside_m(bench.commands) <= SLACK_M
    assert np.all([clearance(q, SETTINGS.table_z_m).distance_m > SETTINGS.self_clearance_m - SLACK_M
                   for q in bench.commands[::5]])  # fmt: skip
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_an_arm_that_starts_outside_goes_in_and_never_out_again():
    bench = at_top(-0.02)
    for step in (action(x=0.02, z=0.02), action(x=0.02, z=-0.015), action(z=0.015), action(z=-0.015), action(z=0.04)):
        bench.driver.offer(bench.chunk(step))
        bench.run(0.6)
    z = np.array([forward(q).position_m[2] for q in bench.commands]) - bench.settings.workspace_top_m
    assert z[0] == pytest.approx(0.02, abs=1e-4) and z.max() < 0.0202
    assert np.all(np.diff(np.maximum(z, BORDER_M)) < 2e-4) and z[-1] <= BORDER_M


def test_a_way_that_nothing_keeps_inside_is_refused_and_the_arm_rests_inside():
    bench = at_top(0.001)
    start = forward(bench.q).position_m
    for _ in range(8):
        bench.driver.offer(bench.chunk(*[action(rx=0.29, ry=-0.05), action(rx=-0.29, ry=0.29)] * 4, period_s=0.02))
        bench.run(0.5)
    assert outside_m(bench.commands, bench.settings) <= SLACK_M
    assert np.linalg.norm(forward(bench.q).position_m - start) < 0.05


def test_an_arm_made_limp_and_stiff_again_between_two_ticks_is_damped_in_between():
    bench = Bench().activate()
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 5))
    bench.run(0.15)
    assert bench.driver.set_mode(Mode.ESTOP) == "" and bench.driver.set_mode(Mode.HOLD, reset=True) == ""
    tick = bench.tick()
    assert tick.command is None and tick.mode is Mode.HOLD
    bench.q = bench.q + 0.01  # it moved on while it was limp
    bench.tick()
    np.testing.assert_allclose(bench.commands[-1], bench.feedback.position_rad, atol=1e-12)
    there = bench.q.copy()
    bench.run(0.3)
    np.testing.assert_array_equal(bench.q, there)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workspace_top_m": 0.101}, "outside the workspace"),
        ({"self_clearance_m": 0.3}, "parts of the arm, or the table"),
    ],
)
def test_the_fuzz_sees_a_driver_that_keeps_to_another_room(changes, words):
    fuzz = Fuzz(SETTINGS, seed=0)
    fuzz._settings = replace(SETTINGS, **changes)
    assert any(words in violation for violation in fuzz.run(500).violations)


@pytest.mark.parametrize(("model", "parts"), [("X5", "wrist and upper arm"), ("L5", "wrist and upper arm")])
def test_a_jog_that_would_fold_the_arm_further_than_the_vendors_rest_pose_is_stopped_with_the_parts_named(model, parts):
    bench = Bench(model=model)
    bench.q = np.zeros(6)
    bench.tick()
    body = bench.settings.arm.body
    rest_m = body.clearance(bench.q, SETTINGS.table_z_m).distance_m
    release(bench.activate())
    press(bench, 0.3, x=0.1)
    assert body.clearance(bench.q, SETTINGS.table_z_m).distance_m > rest_m - 0.0005
    assert any(f"jog stopped: {parts} would come within" in event for event in bench.events)
    press(bench, 1.0, z=0.1)  # and out of there it goes
    assert body.clearance(bench.q, SETTINGS.table_z_m).distance_m > SETTINGS.self_clearance_m
