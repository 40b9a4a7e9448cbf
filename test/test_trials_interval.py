"""Intervals: what a count of successes allows one to say."""

import pytest

from actdistill_ros.trials.interval import paired_bootstrap, wilson


def test_wilson_agrees_with_published_values():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(190, 200) == pytest.approx((0.9104, 0.9726), abs=1e-4)


def test_no_failure_is_not_certainty():
    low, high = wilson(40, 40)
    assert high == 1.0 and 0.90 < low < 0.92
    low, high = wilson(0, 40)
    assert low == 0.0 and 0.08 < high < 0.10


def test_the_ends_are_exact():
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 60))


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 successes of 4 trials"):
        wilson(5, 4)


def test_pairs_cancel_what_a_seed_makes_hard_for_both():
    outcomes = [1, 0] * 50
    assert paired_bootstrap(outcomes, outcomes) == (0.0, 0.0, 0.0)
    worse = [1, 0] * 45 + [0, 0] * 5
    difference, low, high = paired_bootstrap(outcomes, worse)
    assert difference == pytest.approx(0.05) and 0.0 <= low < 0.05 < high < 0.12


def test_the_same_seed_gives_the_same_interval():
    a, b = [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, b, seed=4)[1] <= 0 <= paired_bootstrap(a, b, seed=4)[2]


def test_unpaired_outcomes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        paired_bootstrap([1, 0], [1, 0, 1])
