"""The driver moves the arm as its chunks say, and only so."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action, turned

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_VELOCITY_MAX
from actdistill_ros.control.modes import Mode

forward = X5.chain.forward

HOME = forward(HOME_Q)


@pytest.fixture
def bench() -> Bench:
    return Bench().activate()


def test_a_driver_starts_idle_and_commands_nothing():
    bench = Bench()
    assert bench.tick().command is None
    assert bench.state.mode is Mode.IDLE


def test_a_chunk_moves_the_tcp_by_its_deltas_in_its_time(bench):
    assert bench.driver.offer(bench.chunk(action(x=0.02), action(y=-0.01, gripper=0.0))) == ""
    bench.run(0.1)
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m + [0.02, 0, 0], atol=1e-6)
    bench.run(0.1)
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m + [0.02, -0.01, 0], atol=1e-6)
    assert bench.gripper == 0.0


def test_the_gripper_is_told_at_the_start_of_its_action(bench):
    bench.driver.offer(bench.chunk(action(x=0.02), action(gripper=0.25)))
    bench.run(0.1)
    assert bench.gripper == 1.0
    bench.tick()
    assert bench.gripper == 0.25


def test_between_rest_and_rest_the_joints_go_straight(bench):
    bench.driver.offer(bench.chunk(action(x=0.03, z=-0.01)))
    bench.commands.clear()
    bench.run(0.1)
    way = bench.q - HOME_Q
    passed = (np.array(bench.commands) - HOME_Q) @ way / (way @ way)
    assert np.all(np.diff(passed) > 0.0)
    np.testing.assert_allclose(np.array(bench.commands), HOME_Q + passed[:, None] * way, atol=1e-5)


def test_between_two_actions_of_one_direction_the_arm_does_not_slow_down(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.01)] * 4))
    bench.run(0.4)
    x = [forward(q).position_m[0] for q in bench.commands]
    speeds = np.diff(x)[12:28]  # the second and third action, from tick to tick
    assert speeds.min() > 0.8 * 0.001 and speeds.max() < 1.2 * 0.001


def test_state_counts_actions_done_and_left(bench):
    chunk = bench.chunk(action(x=0.01), action(x=0.01), action(x=0.01), execute=2)
    bench.driver.offer(chunk)
    bench.tick()
    assert (bench.state.chunk_stamp_s, bench.state.actions_done, bench.state.actions_left) == (chunk.stamp_s, 0, 2)
    bench.run(0.1)
    assert (bench.state.actions_done, bench.state.actions_left) == (1, 1)
    bench.run(0.1)
    assert (bench.state.actions_done, bench.state.actions_left) == (2, 0)
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, HOME.position_m + [0.02, 0, 0], atol=1e-9)


def test_after_the_actions_to_execute_it_keeps_the_commanded_pose(bench):
    bench.driver.offer(bench.chunk(action(x=0.01), action(x=0.01), execute=1))
    bench.run(0.1)
    there = bench.q.copy()
    bench.run(0.5)
    np.testing.assert_array_equal(bench.q, there)
    assert bench.state.mode is Mode.POLICY


def test_a_new_chunk_replaces_the_rest_without_a_jump(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.run(0.15)
    bench.driver.offer(bench.chunk(action(y=0.02)))
    bench.run(0.25)
    # The action in progress ends where it led; the two after it never run.
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m + [0.04, 0.02, 0], atol=1e-5)
    steps = np.abs(np.diff(np.array(bench.commands), axis=0))
    assert np.max(steps) < 0.03


def test_tiny_rotations_add_up(bench):
    for _ in range(100):
        bench.driver.offer(bench.chunk(action(rz=0.005)))
        bench.run(0.1)
    assert turned(forward(bench.q).rotation, HOME.rotation) == pytest.approx(0.5, abs=0.01)


def test_actions_compose_onto_the_commanded_pose_whatever_the_arm_does(bench):
    for _ in range(10):
        bench.driver.offer(bench.chunk(action(x=0.005)))
        for _ in range(10):
            bench.tick()
            bench.q = bench.q - 0.02  # an arm that lags behind for ever
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, HOME.position_m + [0.05, 0, 0], atol=1e-9)


def test_a_slower_speed_scale_takes_longer_for_the_same_way(bench):
    bench.driver.set_speed_scale(0.5)
    bench.driver.offer(bench.chunk(action(x=0.02)))
    bench.run(0.1)
    assert bench.state.actions_left == 1
    bench.run(0.1)
    assert bench.state.actions_left == 0
    np.testing.assert_allclose(forward(bench.q).position_m, HOME.position_m + [0.02, 0, 0], atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, float("nan")])
def test_a_speed_scale_that_is_no_share_is_refused(bench, scale):
    with pytest.raises(ValueError, match="expected above 0 and at most 1"):
        bench.driver.set_speed_scale(scale)


def test_a_late_tick_slows_the_motion_instead_of_jumping(bench):
    bench.driver.offer(bench.chunk(action(x=0.02)))
    bench.tick()
    before = bench.q.copy()
    bench.tick(0.08)
    late = np.max(np.abs(bench.q - before))
    bench.tick()
    assert late <= bench.settings.late_ticks * np.max(np.abs(bench.q - bench.commands[-2])) + 1e-9
    assert bench.state.actions_left == 1


def test_a_clock_that_steps_back_stops_the_motion_for_that_tick(bench):
    bench.driver.offer(bench.chunk(action(x=0.02)))
    bench.tick()
    before = bench.q.copy()
    bench.tick(-5.0)
    np.testing.assert_array_equal(bench.q, before)


def test_a_target_outside_the_workspace_is_cut_off_at_its_border_and_said(bench):
    for _ in range(5):
        bench.driver.offer(bench.chunk(*[action(z=-0.04)] * 2))
        bench.run(0.2)
    bottom = SETTINGS.table_z_m + SETTINGS.table_clearance_m
    assert forward(bench.q).position_m[2] == pytest.approx(bottom, abs=1e-5)
    assert any("along z at the workspace limit -0.052 m" in event for event in bench.events)
    assert bench.state.mode is Mode.POLICY


def test_an_arm_that_starts_outside_the_workspace_is_not_pulled_in():
    bench = Bench()
    bench.q = np.array([0.0, 1.2, 1.2, 0.0, 0.0, 0.0])
    bench.tick()
    start = forward(bench.q).position_m
    assert start[2] > SETTINGS.workspace_top_m
    bench.activate().driver.offer(bench.chunk(action(z=0.02), action(z=-0.01)))
    bench.run(0.2)
    np.testing.assert_allclose(forward(bench.q).position_m, start + [0, 0, -0.01], atol=1e-4)


def test_an_unreachable_pose_holds_and_says_why(bench):
    bench.driver.offer(bench.chunk(*[action(x=-0.03, z=0.026)] * 4))  # up and back with the gripper down
    bench.run(0.4)
    assert bench.state.mode is Mode.HOLD
    assert bench.state.actions_left == 0
    assert "refused: unreachable: the nearest joints miss the target at" in bench.state.reason


def test_after_an_unreachable_action_the_commanded_pose_is_where_the_arm_is(bench):
    while bench.state.mode is Mode.POLICY:
        bench.driver.offer(bench.chunk(action(ry=-0.25)))
        bench.run(0.1)
    commanded = bench.state.tcp_commanded
    np.testing.assert_allclose(commanded.position_m, forward(bench.q).position_m, atol=SETTINGS.ik_position_tolerance_m)
    assert turned(commanded.rotation, forward(bench.q).rotation) < SETTINGS.ik_rotation_tolerance_rad


def test_a_joint_that_would_jump_in_one_action_is_refused():
    bench = Bench(joint_jump_limit_rad=0.05).activate()
    bench.driver.offer(bench.chunk(action(x=0.03)))
    bench.run(0.1)
    assert bench.state.mode is Mode.HOLD
    assert "would jump" in bench.state.reason
    np.testing.assert_array_equal(bench.q, HOME_Q)


def test_an_action_too_fast_for_a_joint_is_stretched_and_said():
    bench = Bench(joint_speed_share=0.2).activate()
    bench.driver.offer(bench.chunk(action(rz=0.2)))
    bench.run(0.1)
    assert bench.state.actions_left == 1
    bench.run(0.2)
    assert turned(forward(bench.q).rotation, HOME.rotation) == pytest.approx(0.2, abs=1e-4)
    assert any("joint6 at its speed limit of 1.0 rad/s" in event for event in bench.events)


def test_no_random_chunk_gets_a_joint_beyond_its_limits():
    bench = Bench(rate_hz=50.0, joint_speed_share=0.5).activate()
    rng = np.random.default_rng(0)
    accepted, grippers = 0, []
    joints, times = [bench.q.copy()], [bench.clock.now_s]
    for i in range(10_000):
        rows = rng.normal(0.0, rng.choice([0.01, 0.03, 0.2]), (2, 7))
        rows[:, 3:6] *= 3.0
        rows[:, 6] = rng.uniform(-0.1, 1.1, 2)
        if i % 7 == 0:
            rows[rng.integers(2), rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
        accepted += not bench.driver.offer(bench.chunk(*rows, period_s=float(rng.uniform(0.02, 0.1))))
        for seconds in rng.choice([0.0, 0.005, 0.02, 0.02, 0.02, 0.05, 0.3], rng.integers(1, 4)):
            command = bench.tick(float(seconds)).command
            joints.append(command.position_rad)
            grippers.append(command.gripper)
            times.append(bench.clock.now_s)
    joints, passed = np.array(joints), np.diff(times)[:, None]
    assert np.all((joints >= JOINT_MIN) & (joints <= JOINT_MAX))
    assert np.all(np.abs(np.diff(joints, axis=0)) <= 0.5 * JOINT_VELOCITY_MAX * passed + 1e-4)
    assert 0.0 <= min(grippers) and max(grippers) <= 1.0
    assert accepted > 1000
