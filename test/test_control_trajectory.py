"""A planning tool's trajectory is judged as a whole before the arm moves, and followed inside the same envelope."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action
from test_control_motion import derivatives
from test_control_teleop import press, release

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.pose import integrate
from actdistill_ros.control.trajectory import Trajectory, judge

forward, solve = X5.chain.forward, X5.chain.solve


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.tick()
    bench.driver.set_mode(Mode.HOLD)
    bench.tick()
    return bench


def moved(*steps: tuple[float, float, float]) -> np.ndarray:
    """(N, 6) joints of TCP positions, each given as the way from home [m]."""
    return np.array([solve(integrate(forward(HOME_Q), np.array(step), np.zeros(3)), HOME_Q).q for step in steps])


def follow(bench: Bench, positions: np.ndarray, times, stamp_s: float = 0.0) -> str:
    wanted = Trajectory(np.asarray(positions, float), np.asarray(times, float), stamp_s)
    way, why = judge(wanted, bench.driver.joints, bench.clock.now_s, bench.settings)
    return why or bench.driver.follow(way)


def test_a_trajectory_is_followed_in_its_time_and_ends_in_hold(bench):
    points = moved((0.02, 0.0, 0.0), (0.04, 0.02, 0.0), (0.04, 0.05, 0.0))
    bench.commands.clear()
    assert follow(bench, points, [0.5, 1.0, 1.5]) == ""
    bench.run(0.5)
    np.testing.assert_allclose(bench.q, points[0], atol=0.01)
    assert (bench.state.mode, bench.state.source) == (Mode.TELEOP, "trajectory")
    bench.run(1.02)
    np.testing.assert_allclose(bench.q, points[2], atol=1e-9)
    assert (bench.state.mode, bench.state.reason) == (Mode.HOLD, "the trajectory is done")
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_a_dense_trajectory_does_not_stop_at_its_points(bench):
    points = moved(*[(0.002 * i, 0.0, 0.0) for i in range(1, 31)])
    bench.commands.clear()
    assert follow(bench, points, 0.02 * np.arange(1, 31)) == ""
    bench.run(0.8)
    x = np.array([forward(q).position_m[0] for q in bench.commands])
    assert np.diff(x)[15:45].min() > 0.0005
    np.testing.assert_allclose(bench.q, points[-1], atol=1e-9)


def test_a_trajectory_with_a_point_every_millisecond_costs_no_more_plans_than_one_every_other_tick(bench):
    times = 0.001 * np.arange(1, 601)
    points = HOME_Q + 0.2 * (times[:, None] / times[-1]) ** 2 * [1.0, 0, 0, 0, 0, 1.0]
    way, why = judge(Trajectory(points, times), bench.driver.joints, bench.clock.now_s, bench.settings)
    assert why == "" and len(way.legs) == 30
    assert bench.driver.follow(way) == ""
    bench.run(1.2)
    np.testing.assert_allclose(bench.q, points[-1], atol=1e-9)
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_a_trajectory_faster_than_allowed_takes_longer(bench):
    points = np.array([HOME_Q + [1.0, 0, 0, 0, 0, 0]])
    assert follow(bench, points, [0.1]) == "" or pytest.fail("refused")
    bench.commands.clear()
    bench.run(2.0)
    speed, acceleration, jerk = derivatives(bench.commands, SETTINGS.tick_s)
    assert speed * SETTINGS.joint_speed_share <= SETTINGS.trajectory_speed_share + 1e-6
    np.testing.assert_allclose(bench.q, points[0], atol=1e-9)


@pytest.mark.parametrize(
    ("positions", "times", "words"),
    [
        (HOME_Q[None, :5], [1.0], "positions have shape (1, 5), expected (1 … 1000, 6)"),
        (np.full((1, 6), np.nan), [1.0], "not finite"),
        (HOME_Q[None], [np.inf], "not finite"),
        (np.array([HOME_Q, HOME_Q]), [1.0, 1.0], "time_from_start is expected to grow"),
        (HOME_Q[None] + [0, 0, 0, -2.0, 0, 0], [1.0], "joint4 of point 1 is"),
        (np.zeros((1, 6)) + [0, 3.0, 0.3, 0, 0, 0], [3.0], "before point 1:"),
        (np.array([HOME_Q + [1.4, 0, 0, 0, 0, 0]]), [3.0], "the TCP would leave the workspace"),
    ],
)
def test_a_trajectory_that_makes_no_sense_or_leaves_the_envelope_is_refused_as_a_whole(bench, positions, times, words):
    assert words in follow(bench, positions, times)
    bench.run(0.2)
    np.testing.assert_array_equal(bench.q, HOME_Q)


def test_a_stale_trajectory_is_refused_and_one_without_stamp_starts_now(bench):
    points = moved((0.02, 0.0, 0.0))
    assert "stamp is 5.00 s old" in follow(bench, points, [0.5], bench.clock.now_s - 5.0)
    assert follow(bench, points, [0.5], bench.clock.now_s - 0.1) == ""


def test_a_trajectory_does_not_take_the_arm_from_the_policy_nor_from_a_held_dead_man():
    bench = Bench().activate()
    assert "the mode is POLICY" in follow(bench, moved((0.02, 0.0, 0.0)), [0.5])
    release(bench)
    press(bench, 0.1)
    assert "let go of the dead-man" in follow(bench, [bench.driver.joints + 0.01], [0.5])


def test_the_dead_man_takes_the_arm_from_a_trajectory(bench):
    release(bench)
    assert follow(bench, moved((0.04, 0.04, 0.0)), [1.0]) == ""
    bench.run(0.5)
    press(bench, 0.1)
    assert (bench.state.mode, bench.state.source) == (Mode.TELEOP, "teleop")
    assert any("teleop took over from trajectory" in event for event in bench.events)
    release(bench, 1.0)
    assert np.linalg.norm(forward(bench.q).position_m - forward(HOME_Q).position_m) < 0.04


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.POLICY])
def test_a_request_ends_a_trajectory_at_once_and_for_good(bench, mode):
    assert follow(bench, moved((0.04, 0.04, 0.0)), [1.0]) == ""
    bench.run(0.5)
    assert bench.driver.set_mode(mode) == ""
    bench.run(0.1)
    there = bench.q.copy()
    bench.driver.set_mode(Mode.HOLD)
    bench.run(1.0)
    np.testing.assert_array_equal(bench.q, there)


def test_a_trajectory_judged_from_elsewhere_is_not_followed(bench):
    way, _ = judge(Trajectory(HOME_Q[None] + 0.01, np.array([1.0])), HOME_Q + 0.01, 0.0, SETTINGS)
    assert "the arm is still moving" in bench.driver.follow(way)


def test_an_arm_that_falls_behind_its_trajectory_stops_there_and_says_which_joint(bench):
    assert follow(bench, moved((0.04, 0.04, 0.0)), [1.0]) == ""
    bench.run(0.5)
    commanded = bench.driver.joints.copy()
    bench.q = bench.q + [0.0, 0.0, 0.2, 0.0, 0.0, 0.0]
    bench.commands.clear()
    bench.tick()
    assert bench.state.mode is Mode.HOLD
    assert (
        "trajectory stopped: joint3 is 0.2" in bench.state.reason and "expected at most 0.15 rad" in bench.state.reason
    )
    bench.run(0.5)
    assert np.abs(bench.q - commanded).max() < 0.02  # the rest of the way is forgotten
    assert max(derivatives(bench.commands, SETTINGS.tick_s)) <= 1.0 + 1e-6


def test_chunks_do_not_disturb_a_trajectory(bench):
    assert follow(bench, moved((0.03, 0.0, 0.0)), [0.5]) == ""
    bench.run(0.2)
    assert "the mode is TELEOP" in bench.driver.offer(bench.chunk(action(x=-0.02)))
    bench.run(0.4)
    np.testing.assert_allclose(bench.q, moved((0.03, 0.0, 0.0))[0], atol=1e-9)
