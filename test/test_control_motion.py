"""Whatever is asked for, speed, acceleration and jerk of the command stay within the limits of the settings."""

from __future__ import annotations

import time

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action, turned

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.motion import JointState, MotionError, MotionLimits, Planner, passing_speed
from actdistill_ros.control.singularity import dexterity, speed_share

clearance, forward, jacobian, jacobians = X5.body.clearance, X5.chain.forward, X5.chain.jacobian, X5.chain.jacobians

LIMITS = MotionLimits(SETTINGS.joint_speed_limit, np.full(6, 100.0), np.full(6, 6000.0))


@pytest.fixture
def planner() -> Planner:
    return Planner(LIMITS)


def derivatives(commands: list[np.ndarray], tick_s: float) -> tuple[float, float, float]:
    """Largest speed, acceleration and jerk from tick to tick, as share of their limits."""
    v = np.diff(np.array(commands), axis=0) / tick_s
    a = np.diff(v, axis=0) / tick_s
    j = np.diff(a, axis=0) / tick_s
    return (
        float(np.max(np.abs(v) / SETTINGS.joint_speed_limit)),
        float(np.max(np.abs(a)) / SETTINGS.joint_acceleration_limit_rad_s2),
        float(np.max(np.abs(j)) / SETTINGS.joint_jerk_limit_rad_s3),
    )


def test_a_plan_arrives_in_its_time_at_the_goal_and_its_speed(planner):
    goal, speed = HOME_Q + 0.05, np.full(6, 0.3)
    segment = planner.reach(JointState.at_rest(HOME_Q), goal, speed, 0.1)
    assert segment.duration_s == pytest.approx(0.1, abs=1e-9)
    before = segment.at(0.1 - 1e-7)
    np.testing.assert_allclose(before.q, goal, atol=1e-6)
    np.testing.assert_allclose(before.v, speed, atol=1e-3)


def test_a_plan_with_time_to_spare_is_gentle(planner):
    def hardest(wanted_s: float) -> float:
        segment = planner.reach(JointState.at_rest(HOME_Q), HOME_Q + 0.02, np.zeros(6), wanted_s)
        return max(np.abs(segment.at(t).a).max() for t in np.linspace(0.0, wanted_s, 50))

    assert hardest(0.2) < 0.4 * hardest(0.05)


def test_a_joint_that_turns_back_between_two_legs_rests_there():
    speed = passing_speed(np.array([1.0, 1.0, -1.0, 0.0, 2.0, -2.0]), np.array([2.0, -1.0, -0.5, 1.0, 0.0, -2.0]))
    np.testing.assert_array_equal(speed, [1.0, 0.0, -0.5, 0.0, 0.0, -2.0])


def test_many_jacobians_are_each_of_them():
    q = np.random.default_rng(0).uniform(JOINT_MIN, JOINT_MAX, (20, 6))
    np.testing.assert_allclose(jacobians(q), [jacobian(one) for one in q], atol=1e-12)


def test_no_joint_needs_more_way_to_stop_than_the_planner_says(planner):
    rng = np.random.default_rng(0)
    for _ in range(200):
        speed = rng.uniform(-1.0, 1.0, 6) * LIMITS.speed
        stop = planner.stop(JointState(np.zeros(6), speed, np.zeros(6)))
        assert np.all(np.abs(stop.goal.q) <= planner.stop_way(speed) + 1e-9)


def test_a_stop_is_told_from_what_moves_the_arm(planner):
    moving = JointState(np.zeros(6), np.full(6, 0.2), np.zeros(6))
    assert planner.stop(moving).stops
    assert not planner.reach(moving, np.full(6, 0.1), np.zeros(6), 0.5).stops


def test_a_motion_that_is_not_finite_is_refused(planner):
    with pytest.raises(MotionError, match="not finite"):
        planner.stop(JointState(HOME_Q, np.full(6, np.nan), np.zeros(6)))


def test_a_policy_that_changes_its_mind_at_every_action_stays_within_all_limits():
    bench, rng = Bench().activate(), np.random.default_rng(1)
    bench.commands.clear()
    for i in range(200):
        rows = rng.uniform(-1.0, 1.0, (2, 7)) * [0.025, 0.025, 0.025, 0.12, 0.12, 0.12, 0.5] + [0, 0, 0, 0, 0, 0, 0.5]
        bench.driver.offer(bench.chunk(*rows, execute=int(rng.integers(1, 3))))
        bench.run(float(rng.choice([0.05, 0.1, 0.13, 0.2])))
        if i % 20 == 0:
            bench.driver.set_mode(Mode.HOLD)
            bench.run(0.03)
            bench.driver.set_mode(Mode.POLICY)
    speed, acceleration, jerk = derivatives(bench.commands, SETTINGS.tick_s)
    assert speed <= 1.0 + 1e-6 and acceleration <= 1.0 + 1e-6 and jerk <= 1.0 + 1e-6
    assert speed > 0.3


@pytest.mark.parametrize(
    "step", [{"x": 0.02, "rz": 0.15}, {"y": 0.02, "rz": -0.1}, {"z": -0.02, "rx": 0.1}, {"y": -0.02}]
)
def test_an_action_as_large_as_the_demonstrations_arrives_in_its_period_even_from_rest_to_rest(step):
    bench = Bench().activate()
    bench.driver.offer(bench.chunk(action(**step)))
    bench.run(0.1)
    assert bench.state.actions_done == 1 and not any("takes" in event for event in bench.events)


def test_the_tcp_stays_within_its_limits_while_it_follows_the_policy():
    bench = Bench(tcp_speed_limit_m_s=0.25, tcp_acceleration_limit_m_s2=5.0).activate()
    bench.driver.offer(bench.chunk(*[action(x=0.03), action(y=0.03), action(x=-0.03), action(y=-0.03)] * 2))
    bench.commands.clear()
    bench.run(2.5)
    x = np.array([forward(q).position_m for q in bench.commands])
    v = np.diff(x, axis=0) / SETTINGS.tick_s
    assert np.linalg.norm(v, axis=1).max() <= 0.25 * 1.02
    assert np.linalg.norm(np.diff(v, axis=0), axis=1).max() / SETTINGS.tick_s <= 5.0 * 1.15
    assert any("at the limits of acceleration and of the TCP" in event for event in bench.events)
    assert bench.state.actions_done == 8


@pytest.mark.parametrize("axis", ["rx", "ry", "rz"])
def test_a_hundred_small_rotations_arrive_at_half_a_radian(axis):
    bench, sign = Bench().activate(), -1.0 if axis == "ry" else 1.0
    if axis == "ry":  # bend the gripper up first: it cannot be bent further down by half a radian
        bench.q = bench.q + np.array([0.0, 0.0, 0.0, 0.5, 0.0, 0.0])
        bench = _from(bench.q)
    start = forward(bench.q).rotation
    for _ in range(100):
        assert bench.driver.offer(bench.chunk(action(**{axis: sign * 0.005}))) == ""
        bench.run(0.1)
    assert turned(forward(bench.q).rotation, start) == pytest.approx(0.5, abs=0.01)


def _from(q: np.ndarray) -> Bench:
    bench = Bench()
    bench.q = q
    bench.tick()
    return bench.activate()


def test_an_action_that_would_fold_the_arm_into_itself_is_refused():
    bench = _from(np.array([0.0, 1.0, 1.8, -1.5, 0.0, 0.0]))
    while bench.state.mode is Mode.POLICY:
        before = bench.q
        bench.driver.offer(bench.chunk(action(x=-0.02)))
        bench.run(0.1)
        assert clearance(bench.q, SETTINGS.table_z_m).distance_m >= 0.009
        assert not np.array_equal(bench.q, before) or bench.state.mode is Mode.HOLD
    assert "within" in bench.state.reason or "unreachable" in bench.state.reason


def test_the_rest_pose_of_the_vendor_is_close_and_the_table_is_seen():
    rest = clearance(np.zeros(6), SETTINGS.table_z_m)
    assert -0.03 < rest.distance_m < 0.0 and rest.between == ("wrist", "upper arm")
    assert clearance(HOME_Q, SETTINGS.table_z_m).distance_m > SETTINGS.self_clearance_m
    low = clearance(np.array([0.0, 3.4, 1.2, 0.0, 0.0, 0.0]), SETTINGS.table_z_m)
    assert low.distance_m < 0.0 and low.between[1] == "table"


def test_a_folded_gripper_meets_the_base():
    found = {clearance(q, -1.0).between for q in np.random.default_rng(0).uniform(JOINT_MIN, JOINT_MAX, (2000, 6))
             if clearance(q, -1.0).distance_m < 0.0}  # fmt: skip
    assert {("hand", "base"), ("palm", "base"), ("hand", "shoulder")} <= found


def test_the_thresholds_of_singularities_leave_the_vendors_home_and_the_table_alone():
    assert dexterity(X5.chain, np.zeros(6)) > SETTINGS.singularity_slow_m
    assert dexterity(X5.chain, HOME_Q) > 2.0 * SETTINGS.singularity_slow_m
    assert dexterity(X5.chain, np.array([0.0, 1.5, 1.2, -0.5, 1.57, 0.0])) < SETTINGS.singularity_stop_m


def test_a_singularity_slows_who_goes_there_and_nobody_who_leaves():
    slow, stop = SETTINGS.singularity_slow_m, SETTINGS.singularity_stop_m
    assert speed_share(0.05, slow, SETTINGS) == 1.0
    assert speed_share(slow, 0.5 * (slow + stop), SETTINGS) == pytest.approx(0.5)
    assert speed_share(stop, 0.0, SETTINGS) == 0.1
    assert speed_share(0.001, 0.002, SETTINGS) == 1.0


def test_an_action_towards_a_singularity_takes_longer_and_says_so():
    q = np.array([0.0, 1.5, 1.2, -0.5, 1.35, 0.0])
    bench = _from(q)
    towards = jacobian(q) @ np.array([0.0, 0.0, 0.0, 0.0, 0.08, 0.0])
    bench.driver.offer(bench.chunk(list(towards) + [1.0]))
    bench.run(0.5)
    assert any("slower towards a singularity" in event for event in bench.events)


def test_a_border_that_cuts_less_than_half_a_millimetre_is_no_news():
    bench = Bench(workspace_top_m=float(forward(HOME_Q).position_m[2]) + 0.0003).activate()
    bench.driver.offer(bench.chunk(action(z=0.0006), action(x=0.01)))
    bench.run(0.3)
    assert not any("cut by" in event for event in bench.events)


def test_planning_is_cheap_enough_for_every_tick(planner):
    start = JointState(HOME_Q, np.full(6, 0.4), np.zeros(6))
    began = time.perf_counter()
    for _ in range(200):
        planner.reach(start, HOME_Q + 0.1, np.zeros(6), 0.1)
    assert (time.perf_counter() - began) / 200 < 0.002


def test_a_pose_is_kept_to_the_micrometre_through_a_long_way():
    bench = Bench().activate()
    for _ in range(25):
        for step in (action(x=0.01), action(y=0.01), action(x=-0.01), action(y=-0.01)):
            bench.driver.offer(bench.chunk(step))
            bench.run(0.1)
    home: ArmPose = forward(HOME_Q)
    np.testing.assert_allclose(forward(bench.q).position_m, home.position_m, atol=1e-6)
    assert turned(forward(bench.q).rotation, home.rotation) < 1e-5
