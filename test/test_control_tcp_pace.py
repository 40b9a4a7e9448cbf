"""The TCP is never faster than its limits, neither on its way nor in the stop that may follow at any moment of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from arm_parts import SETTINGS, Bench
from test_control_room import LIMITS
from test_control_teleop import press, release

from actdistill_ros.bench.fuzz import Fuzz
from actdistill_ros.control import tcp_pace
from actdistill_ros.control.leg import Leg, plan
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.motion import JointState, Planner, stops
from actdistill_ros.control.room import Room
from actdistill_ros.control.tcp_pace import PLANNED, speed_overrun

CHAIN = SETTINGS.arm.chain
# Two joints that move the TCP against each other, 0.8 and 1.3 m/s; the slower one rests first.
Q = np.array([0.25, 2.13, 1.91, -0.95, -0.92, -0.68])
V = np.array([-0.34, -1.75, -3.75, 1.23, -0.93, -0.03])
A = np.array([0.0, 0.0, -68.4, 0.0, 0.0, 0.0])


def tcp_speeds(commands: list[np.ndarray], tick_s: float = SETTINGS.tick_s) -> np.ndarray:
    """(T − 1,) [m/s] between each command and the next."""
    at = CHAIN.tcp_positions(*CHAIN.many_link_frames(np.array(commands)))
    return np.linalg.norm(np.diff(at, axis=0), axis=1) / tick_s


def overrun_of(q: np.ndarray, v: np.ndarray, a: np.ndarray) -> float:
    return speed_overrun(q[None], v[None], a[None], LIMITS, SETTINGS)


def test_speeds_in_stops_that_are_looked_at_are_those_of_the_stops_that_are_planned():
    planner, rng = Planner(LIMITS), np.random.default_rng(0)
    v = rng.uniform(-1.0, 1.0, (40, 6)) * LIMITS.speed
    a = rng.uniform(-1.0, 1.0, (40, 6)) * LIMITS.acceleration
    _, speeds = stops(v, a, LIMITS, 5)
    for t in range(len(v)):
        stop = planner.stop(JointState(np.zeros(6), v[t], a[t]))
        for k in range(5):
            np.testing.assert_allclose(speeds[k, t], stop.at(stop.duration_s * (k + 1) / 5).v, atol=1e-9)


def test_a_stop_may_be_faster_than_the_motion_before_it_and_is_seen_to_be():
    now = np.linalg.norm((CHAIN.jacobian(Q) @ V)[:3])
    stop = Planner(LIMITS).stop(JointState(Q, V, A))
    fastest = max(np.linalg.norm((CHAIN.jacobian(s.q) @ s.v)[:3]) for s in map(stop.at, np.arange(0.0, 0.06, 5e-4)))
    assert now < 0.6 and fastest > 1.05 * SETTINGS.tcp_speed_limit_m_s
    assert overrun_of(Q, V, A) == pytest.approx(fastest / SETTINGS.tcp_speed_limit_m_s / PLANNED, rel=0.01)


def test_moments_of_a_stop_are_close_enough_to_find_its_fastest():
    planner, rng, missed = Planner(LIMITS), np.random.default_rng(1), []
    for _ in range(100):
        q, v = Q + rng.normal(0.0, 0.3, 6), rng.uniform(-1.0, 1.0, 6) * LIMITS.speed
        stop = planner.stop(JointState(q, v, np.zeros(6)))
        states = [stop.at(t) for t in np.arange(0.0, stop.duration_s, 1e-3)]
        speeds = [CHAIN.jacobian(state.q) @ state.v for state in states]
        fastest = max(
            max(np.linalg.norm(speed[:3]) / SETTINGS.tcp_speed_limit_m_s for speed in speeds),
            max(np.linalg.norm(speed[3:]) / SETTINGS.tcp_turn_limit_rad_s for speed in speeds),
        )
        missed.append(fastest / PLANNED / overrun_of(q, v, np.zeros(6)))
    assert max(missed) < 1.0 / PLANNED


@pytest.mark.parametrize(("limit_m_s", "step_s"), [(0.3, 0.02), (0.5, 0.04), (1.0, 0.075)])
def test_a_hold_at_any_moment_of_what_a_policy_can_ask_for_keeps_the_tcp_below_its_limit(limit_m_s, step_s):
    step, fastest = [*(CHAIN.jacobian(Q) @ V * step_s), 1.0], []
    for after_ticks, (steps, period_s) in itertools.product(range(2, 14), [(1, 0.02), (3, 0.02), (3, 0.1)]):
        bench = Bench(tcp_speed_limit_m_s=limit_m_s)
        bench.q = Q
        bench.tick()
        bench.activate().commands.clear()
        assert bench.driver.offer(bench.chunk(*[step] * steps, period_s=period_s)) == ""
        bench.run(after_ticks * SETTINGS.tick_s)
        bench.driver.set_mode(Mode.HOLD)
        bench.run(0.07)
        fastest.append(tcp_speeds(bench.commands).max())
    # Without a look at the stops it is up to 0.40, 0.62 and 1.07 m/s.
    assert 0.7 * limit_m_s < max(fastest) <= limit_m_s


def test_a_leg_from_which_a_stop_would_be_too_fast_takes_longer(monkeypatch):
    settings, planner = replace(SETTINGS, tcp_speed_limit_m_s=0.3), Planner(LIMITS)
    start, leg = JointState.at_rest(Q), Leg(Q + 0.06 * V, 0.05)

    def seconds() -> float:
        return plan(planner, start, leg, None, Room.around(Q, settings, LIMITS), planner).duration_s

    with_stops = seconds()
    monkeypatch.setattr(tcp_pace, "stops", lambda v, a, limits, points: (np.zeros((points, *v.shape)),) * 2)
    assert with_stops > 1.05 * seconds()


def test_an_operator_who_takes_over_from_the_fastest_motion_keeps_the_tcp_below_its_limit():
    bench, rng = Bench().activate(), np.random.default_rng(4)
    release(bench)
    bench.commands.clear()
    for sign in (1.0, -1.0) * 10:
        step = [0.0, 0.045 * sign, 0.02 * rng.uniform(-1, 1), *rng.uniform(-0.15, 0.15, 3), 1.0]
        bench.driver.offer(bench.chunk(*[step] * 3, period_s=0.02))
        bench.run(float(rng.choice([0.06, 0.1, 0.14])))
        press(bench, 0.2, y=-0.2 * sign, z=0.1)
        release(bench)
        bench.driver.set_mode(Mode.POLICY)
    speeds = tcp_speeds(bench.commands)
    assert 0.5 < speeds.max() <= SETTINGS.tcp_speed_limit_m_s


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"tcp_speed_limit_m_s": 0.3}, "the TCP moves at"), ({"tcp_turn_limit_rad_s": 1.0}, "the TCP turns at")],
)
def test_the_fuzz_sees_a_driver_whose_tcp_is_too_fast(changes, words):
    fuzz = Fuzz(SETTINGS, seed=0)
    fuzz._settings = replace(SETTINGS, **changes)
    violations = fuzz.run(300).violations
    assert any(words in violation and violation.endswith("in a stop") for violation in violations)
    assert any(words in violation and not violation.endswith("in a stop") for violation in violations)
