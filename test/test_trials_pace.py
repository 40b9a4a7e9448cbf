"""Pace: a starved loop is called that, so that its failures are not blamed on the policy."""

from actdistill_ros.trials import pace
from actdistill_ros.trials.protocol import Result


def result(steps: int, seconds: float, factor: float | None) -> Result:
    return Result("m", "lift", 1, "lift it", "failure", "timeout", "", seconds, steps, factor)


def test_a_loop_that_keeps_up_is_not_warned_of():
    found = pace.measure([result(40, 20.0, 1.0), result(10, 5.0, 0.98)], 2.5)
    assert found == {"steps_per_s": 2.0, "contract_steps_per_s": 2.5, "real_time_factor_min": 0.98}
    assert pace.warning(found) == ""


def test_a_starved_policy_and_a_slow_world_are_both_named():
    words = pace.warning(pace.measure([result(2, 6.0, 1.0), result(1, 6.0, 0.4)], 2.5))
    assert "0.2 steps a second, its contract allows 2.5" in words
    assert "fell to 0.40 of real time" in words and "do not count" in words
    assert "real time" not in pace.warning(pace.measure([result(2, 6.0, 1.0)], 2.5))


def test_without_a_world_or_without_a_trial_nothing_is_made_up():
    assert pace.measure([result(40, 20.0, None)], 2.5)["real_time_factor_min"] is None
    assert pace.warning(pace.measure([], 2.5)) == ""
