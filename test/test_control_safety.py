"""Whatever the policy or the motors do, the arm ends in hold or damping and says why."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q, SETTINGS, Bench, action

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.modes import Mode

forward = X5.chain.forward


@pytest.fixture
def bench() -> Bench:
    return Bench().activate()


def stays(bench: Bench, seconds: float = 0.3) -> bool:
    before = bench.q.copy()
    bench.run(seconds)
    return np.array_equal(bench.q, before)


def rests(bench: Bench) -> bool:
    """Whether the arm comes to rest within a tenth of a second, and stays."""
    bench.run(0.1)
    return stays(bench)


def test_an_arm_that_was_moved_just_before_the_start_is_held_where_it_is_now():
    bench = Bench()
    bench.tick()
    bench.clock.now_s += 0.004
    assert bench.driver.set_mode(Mode.POLICY) == ""
    assert bench.driver.offer(bench.chunk(action(x=0.02))) == ""
    bench.answers = False
    assert np.array_equal(bench.tick().command.position_rad, HOME_Q)  # no answer yet: nothing moves
    bench.answers, bench.q = True, HOME_Q + [0.0, 0.4, 0.4, 0.0, 0.0, 0.0]
    moved = bench.q.copy()
    np.testing.assert_allclose(bench.tick().command.position_rad, moved, atol=0.02)  # and one tick of motion
    assert bench.state.mode is Mode.POLICY
    bench.run(0.1)
    expected = forward(moved).position_m + [0.02, 0.0, 0.0]
    np.testing.assert_allclose(forward(bench.q).position_m, expected, atol=1e-5)


def test_a_policy_that_goes_quiet_ends_in_hold_and_says_for_how_long(bench):
    bench.driver.offer(bench.chunk(action(x=0.01), action(x=0.01)))
    bench.run(0.2 + SETTINGS.chunk_timeout_s + 0.02)
    assert (bench.state.mode, bench.state.reason) == (Mode.HOLD, "policy silent for 1.2 s")
    bench.run(1.0)
    assert bench.state.reason == "policy silent for 2.2 s"


@pytest.mark.parametrize("nonsense", [False, True])
def test_a_policy_without_a_valid_chunk_for_long_leaves_the_arm_damped_whether_silent_or_not(bench, nonsense):
    bench.driver.offer(bench.chunk(action(x=0.01)))
    for _ in range(round(SETTINGS.policy_hold_to_damping_s) - 1):
        bench.run(1.0)
        if nonsense:
            bench.driver.offer(bench.chunk(action(x=float("nan"))))
    assert bench.state.mode is Mode.HOLD
    tick = bench.run(1.1)
    assert tick.mode is Mode.DAMPING and tick.command is None and "no valid chunk for 60 s: " in tick.reason
    assert "ask for mode POLICY first" in bench.driver.offer(bench.chunk(action(x=0.01)))


def test_a_policy_that_never_starts_ends_in_hold(bench):
    bench.run(SETTINGS.chunk_timeout_s + 0.02)
    assert bench.state.mode is Mode.HOLD and "policy silent for 1.0 s" in bench.state.reason


def test_a_slow_chunk_is_no_silence(bench):
    bench.driver.set_speed_scale(0.1)
    bench.driver.offer(bench.chunk(action(x=0.01), action(x=0.01)))
    bench.run(1.9)
    assert bench.state.mode is Mode.POLICY


def test_the_next_valid_chunk_ends_a_hold_that_silence_caused(bench):
    bench.run(2.0)
    assert bench.driver.offer(bench.chunk(action(x=0.01))) == ""
    bench.run(0.1)
    assert bench.state.mode is Mode.POLICY
    assert bench.state.actions_done == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stamp_s": 0.0}, "stamp is 0, expected the capture time"),
        ({"stamp_s": float("nan")}, "stamp is nan"),
        ({"stamp_s": 1003.0}, "2.990 s in the future: use one clock"),
        ({"stamp_s": 998.0}, "stale chunk: its observation is 2.01 s old, expected at most 1.0 s"),
        ({"period_s": 0.0}, "period is 0.0 s, expected 0.02 … 1.0 s"),
        ({"period_s": float("nan")}, "period is nan s"),
        ({"execute": 0}, "execute is 0, expected 1 … 1"),
        ({"execute": 2}, "execute is 2, expected 1 … 1"),
        ({"actions": np.zeros((0, 7))}, "actions have shape"),
        ({"actions": np.zeros((1, 6))}, "actions have shape"),
        ({"actions": np.zeros((101, 7))}, "actions have shape"),
    ],
)
def test_a_chunk_that_is_not_fit_to_move_an_arm_is_refused_in_words(bench, changes, words):
    assert words in bench.driver.offer(bench.chunk(action(x=0.02), **changes))
    assert words in bench.state.reason and bench.state.reason.startswith("chunk refused: ")
    assert bench.state.mode is Mode.HOLD and stays(bench)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (action(x=float("nan")), "action 2 is not finite"),
        (action(gripper=float("inf")), "action 2 is not finite"),
        (action(x=0.08), "far jump: translation of action 2 is 0.080 m, expected at most 0.05 m per action"),
        (action(rz=1.0), "far jump: rotation of action 2 is 1.000 rad"),
        (action(gripper=-1.0), "gripper of action 2 is -1.00, expected 0 (closed) … 1 (open)"),
        (action(gripper=255.0), "gripper of action 2 is 255.00"),
    ],
)
def test_an_action_that_is_not_fit_to_move_an_arm_is_refused_in_words(bench, bad, words):
    assert words in bench.driver.offer(bench.chunk(action(x=0.01), bad))
    assert words in bench.state.reason and bench.state.mode is Mode.HOLD and stays(bench)


def test_a_refused_chunk_ends_the_one_before(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.run(0.15)
    bench.driver.offer(bench.chunk(action(x=float("nan"))))
    assert rests(bench) and bench.state.actions_left == 0
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, forward(bench.q).position_m, atol=1e-9)


def test_a_refused_chunk_is_told_as_an_event(bench):
    bench.driver.offer(bench.chunk(action(x=float("nan"))))
    bench.tick()
    assert any(event.startswith("HOLD: chunk refused: action 1 is not finite") for event in bench.events)


def test_a_valid_chunk_after_a_refused_one_goes_on_from_the_commanded_pose(bench):
    bench.driver.offer(bench.chunk(action(x=0.2)))
    bench.run(0.2)
    bench.driver.offer(bench.chunk(action(x=0.01)))
    bench.run(0.1)
    np.testing.assert_allclose(forward(bench.q).position_m, forward(HOME_Q).position_m + [0.01, 0, 0], atol=1e-5)


def test_a_gripper_slightly_beyond_its_ends_is_cut_off(bench):
    assert bench.driver.offer(bench.chunk(action(gripper=1.03))) == ""
    bench.tick()
    assert bench.gripper == 1.0


def test_a_chunk_older_than_the_one_before_is_refused(bench):
    bench.driver.offer(bench.chunk(action(x=0.01)))
    bench.run(0.1)
    assert "older than that of the one before" in bench.driver.offer(bench.chunk(stamp_s=bench.clock.now_s - 0.5))


def test_a_stamp_within_the_clock_skew_is_no_future(bench):
    assert bench.driver.offer(bench.chunk(stamp_s=bench.clock.now_s + 0.04)) == ""


def test_chunks_do_not_move_an_arm_that_nobody_gave_to_the_policy():
    bench = Bench()
    bench.tick()
    assert "the mode is IDLE" in bench.driver.offer(bench.chunk(action(x=0.01)))
    assert bench.tick().command is None


def test_chunks_do_not_end_a_hold_that_was_asked_for(bench):
    bench.driver.set_mode(Mode.HOLD)
    assert "ask for mode POLICY first" in bench.driver.offer(bench.chunk(action(x=0.01)))
    assert stays(bench) and bench.state.mode is Mode.HOLD


def test_a_hold_in_the_middle_of_an_action_comes_to_rest_at_once_and_forgets_the_rest(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 3))
    bench.run(0.05)
    before = forward(bench.q).position_m
    bench.driver.set_mode(Mode.HOLD)
    assert rests(bench)
    assert np.linalg.norm(forward(bench.q).position_m - before) < 0.01
    bench.driver.set_mode(Mode.POLICY)
    assert stays(bench) and bench.state.actions_left == 0
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, forward(bench.q).position_m, atol=1e-9)


def test_asking_for_the_policy_again_in_mid_action_composes_onto_where_the_arm_comes_to_rest(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 3))
    bench.run(0.05)
    bench.driver.set_mode(Mode.POLICY)
    commanded = bench.state.tcp_commanded.position_m
    assert rests(bench)
    np.testing.assert_allclose(commanded, forward(bench.q).position_m, atol=1e-9)


def test_an_emergency_stop_damps_at_once_and_is_latched(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.run(0.1)
    assert bench.driver.set_mode(Mode.ESTOP) == ""
    assert bench.tick().command is None
    for mode in (Mode.POLICY, Mode.HOLD, Mode.IDLE, Mode.DAMPING):
        assert "latched: ask again with reset" in bench.driver.set_mode(mode)
    assert "the mode is ESTOP" in bench.driver.offer(bench.chunk(action(x=0.01)))
    assert bench.tick().command is None and bench.state.mode is Mode.ESTOP


def test_a_reset_never_resumes_the_old_goal(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.run(0.15)
    bench.driver.set_mode(Mode.ESTOP)
    bench.q = HOME_Q + 0.1  # it sinks while it damps
    bench.tick()
    assert bench.driver.set_mode(Mode.POLICY, reset=True) == ""
    bench.run(0.5)
    np.testing.assert_array_equal(bench.q, HOME_Q + 0.1)
    assert bench.state.actions_left == 0


def test_a_start_is_from_the_measured_joints():
    bench = Bench()
    bench.q, bench.gripper = HOME_Q - 0.2, 0.3
    bench.tick()
    bench.activate()
    np.testing.assert_array_equal(bench.commands[0], HOME_Q - 0.2)
    assert bench.state.gripper_commanded == 0.3
    np.testing.assert_allclose(bench.state.tcp_commanded.position_m, forward(HOME_Q - 0.2).position_m)


def test_an_arm_outside_its_joint_limits_is_not_started():
    bench = Bench()
    bench.q = HOME_Q.copy()
    bench.q[1] = -0.4
    bench.tick()
    assert (
        bench.driver.set_mode(Mode.POLICY) == "joint2 is at -0.40 rad, outside -0.05 … 3.5 rad: move it inside by hand"
    )
    assert bench.tick().command is None


def test_stale_feedback_holds_then_damps_and_is_a_named_fault(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 20))
    bench.run(0.1)
    bench.answers = False
    bench.run(SETTINGS.feedback_timeout_s + 0.02)
    assert bench.state.mode is Mode.HOLD
    assert "motor feedback is 0.2 s old, expected at most 0.2 s" in bench.state.faults[0]
    bench.run(0.1)
    assert stays(bench, SETTINGS.hold_to_damping_s - 0.2)
    tick = bench.run(0.2)
    assert tick.command is None and tick.mode is Mode.DAMPING
    assert "held for 2.0 s with a fault: motor feedback is" in tick.reason


def test_no_request_makes_an_arm_stiff_that_does_not_answer(bench):
    bench.answers = False
    bench.run(3.0)
    assert bench.state.mode is Mode.DAMPING
    for mode in (Mode.POLICY, Mode.HOLD):
        assert "the arm has faults: motor feedback is" in bench.driver.set_mode(mode, reset=True)
    bench.answers = True
    bench.tick()
    assert bench.driver.set_mode(Mode.HOLD) == ""


def test_a_short_gap_in_the_feedback_ends_with_the_next_chunk(bench):
    bench.answers = False
    bench.run(0.3)
    assert "the mode is HOLD" in bench.driver.offer(bench.chunk(action(x=0.01)))
    bench.answers = True
    bench.tick()
    assert bench.state.reason == "motor feedback is back: waits for the next chunk" and not bench.state.faults
    assert bench.driver.offer(bench.chunk(action(x=0.01))) == ""


def test_feedback_that_is_not_finite_holds(bench):
    bench.q = np.full(6, np.nan)
    assert bench.tick().mode is Mode.HOLD
    assert "not finite" in bench.state.faults[0] and bench.state.tcp_measured is None


def test_a_motor_fault_is_named_with_its_remedy_and_ends_in_damping(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.faults = {"joint3": "coil too hot"}
    bench.tick()
    assert bench.state.faults == ("joint3: coil too hot; let the motor cool down",)
    assert bench.state.mode is Mode.HOLD and stays(bench)
    assert bench.run(SETTINGS.hold_to_damping_s).mode is Mode.DAMPING


def test_no_chunk_ends_a_hold_that_a_motor_caused(bench):
    bench.faults = {"joint3": "overload"}
    bench.tick()
    bench.faults = {}
    bench.run(0.1)
    assert "ask for mode POLICY first" in bench.driver.offer(bench.chunk(action(x=0.01)))
    assert bench.driver.set_mode(Mode.POLICY) == ""


def test_an_arm_that_is_not_where_it_was_told_to_be_holds_where_it_is(bench):
    bench.driver.offer(bench.chunk(*[action(x=0.02)] * 4))
    bench.run(0.1)
    bench.q = bench.q + np.array([0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    moved = bench.q.copy()
    bench.tick()
    assert "joint1 is 0.4" in bench.state.reason and "something blocks or moved the arm" in bench.state.reason
    np.testing.assert_array_equal(bench.commands[-1], moved)
    assert "ask for mode POLICY first" in bench.driver.offer(bench.chunk(action(x=0.01)))
    assert bench.driver.set_mode(Mode.POLICY) == ""
    assert stays(bench) and np.array_equal(bench.q, moved)


def test_a_lost_arm_is_an_error_until_there_is_a_new_driver(bench):
    bench.driver.lose("motors.sock closed")
    assert bench.state.mode is Mode.DAMPING and bench.state.faults == ("ERROR: motors.sock closed",)
    assert "ERROR: motors.sock closed" in bench.driver.set_mode(Mode.POLICY, reset=True)
