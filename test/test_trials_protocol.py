"""One trial: the verdict, why it ended, and that nothing is left running."""

import pytest
from trial_parts import Clock, Judge, Robot

from actdistill_ros.trials.protocol import ANSWER_S, LOOK_S, TICK_S, Skipped, Trial, TrialsError, plan, run_trial

BOWL = Trial("models/a", "bowl", 7)


@pytest.fixture
def clock():
    return Clock()


def attempt(robot, judge, clock, **changes):
    return run_trial(BOWL, robot, judge, **{"timeout_s": 10.0, "clock": clock, "pause": clock.pause, **changes})


def test_tasks_take_turns_and_seeds_count_up():
    trials = plan("models/a", ("lift", "bowl", "push"), 4, 100)
    assert [(trial.task, trial.seed) for trial in trials] == [
        ("lift", 100),
        ("bowl", 101),
        ("push", 102),
        ("lift", 103),
    ]
    with pytest.raises(TrialsError, match="0 trials"):
        plan("models/a", ("lift",), 0, 100)


def test_success_ends_the_trial_as_soon_as_the_judge_sees_it(clock):
    robot, judge = Robot(clock), Judge(clock, {"bowl": 3.0})
    result = attempt(robot, judge, clock)
    assert (result.verdict, result.reason, result.judged) == ("success", "achieved", "it is there")
    assert robot.cancelled and robot.cancelled[0] - judge.began <= 3.0 + LOOK_S + TICK_S
    assert robot.started == [("do bowl", 10.0)]
    assert (result.task, result.seed, result.checkpoint, result.instruction) == ("bowl", 7, "models/a", "do bowl")
    assert 2.0 < result.seconds < 3.0 and result.steps == int(4 * result.seconds)


def test_failure_keeps_the_reason_of_the_one_who_ran_it(clock):
    result = attempt(Robot(clock), Judge(clock, {}), clock)
    assert (result.verdict, result.reason, result.judged) == ("failure", "timeout", "it is not there")
    held = attempt(Robot(clock, ends_after_s=2.0), Judge(clock, {}), clock)
    assert (held.verdict, held.reason) == ("failure", "arm: HOLD: policy silent for 1.0 s")


def test_success_that_shows_only_after_the_end_counts(clock):
    robot, judge = Robot(clock, ends_after_s=2.0), Judge(clock, {})
    judge.look = lambda: None
    judge.achieved_after_s = {"bowl": 2.0}
    result = attempt(robot, judge, clock)
    assert (result.verdict, result.reason) == ("success", "arm: HOLD: policy silent for 1.0 s")


def test_a_task_that_never_answers_ends_with_that_reason(clock):
    robot = Robot(clock, answers=False, obeys=False)
    begin = clock()
    result = attempt(robot, Judge(clock, {}), clock)
    assert result.verdict == "failure" and "no answer from the task" in result.reason
    assert robot.cancelled and clock() - begin < 10.0 + ANSWER_S + 2.0


def test_a_task_that_ignores_the_cancel_after_success_is_waited_for_only_so_long(clock):
    robot, begin = Robot(clock, answers=False, obeys=False), clock()
    result = attempt(robot, Judge(clock, {"bowl": 1.0}), clock, timeout_s=1000.0)
    assert result.verdict == "success"
    assert clock() - begin < ANSWER_S + 3.0


def test_an_interrupt_stops_the_robot_first(clock):
    robot = Robot(clock)

    def interrupt(_):
        if robot.progress()[1] > 1.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(robot, Judge(clock, {}), clock, on_tick=interrupt)
    assert len(robot.cancelled) == 1


def test_a_skipped_trial_never_starts(clock):
    robot, judge = Robot(clock), Judge(clock, {})

    def skip(_):
        raise Skipped("by the operator")

    judge.stage = skip
    result = attempt(robot, judge, clock)
    assert (result.verdict, result.reason, robot.started) == ("unjudged", "skipped", [])
