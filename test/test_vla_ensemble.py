"""The adaptive ensemble, on values worked out by hand."""

import numpy as np
import pytest

from actdistill_ros.policy.vla.ensemble import GOOGLE_ROBOT, WIDOWX, AdaptiveEnsemble, EnsembleSettings


def chunk(*actions):
    return np.array(actions, dtype=float)


def test_the_first_chunk_is_taken_as_it_is():
    assert AdaptiveEnsemble(WIDOWX)(chunk([0.1, -0.2], [5, 5])).tolist() == [0.1, -0.2]


def test_earlier_chunks_count_by_their_cosine_with_the_newest():
    ensemble = AdaptiveEnsemble(EnsembleSettings(chunks=3, alpha=0.1))
    ensemble(chunk([9, 9], [9, 9], [0, 3]))  # said for now: (0, 3), at a right angle to the newest
    ensemble(chunk([9, 9], [-2, 0]))  # said for now: (−2, 0), opposite
    found = ensemble(chunk([4, 0], [9, 9]))
    weights = np.exp([0.1, -0.1, 0.0])  # newest, opposite, right angle
    expected = (weights[:, None] * [[4, 0], [-2, 0], [0, 3]]).sum(0) / weights.sum()
    assert np.allclose(found, expected, atol=1e-7)


def test_agreeing_chunks_of_equal_size_leave_the_action_unchanged():
    ensemble = AdaptiveEnsemble(WIDOWX)
    for _ in range(10):
        found = ensemble(np.tile([0.02, -0.01, 1.0], (16, 1)))
    assert np.allclose(found, [0.02, -0.01, 1.0])


def test_only_the_latest_chunks_are_kept():
    ensemble = AdaptiveEnsemble(GOOGLE_ROBOT)
    ensemble(np.full((16, 1), 100.0))
    ensemble(np.full((16, 1), 2.0))
    assert np.allclose(ensemble(np.full((16, 1), 4.0)), 3.0)


def test_a_large_alpha_lets_disagreeing_chunks_count_for_nothing():
    ensemble = AdaptiveEnsemble(EnsembleSettings(chunks=2, alpha=50.0))
    ensemble(chunk([0, 0], [-1, 0]))
    assert np.allclose(ensemble(chunk([1, 0], [0, 0])), [1, 0])


def test_alpha_zero_is_the_mean():
    ensemble = AdaptiveEnsemble(EnsembleSettings(chunks=2, alpha=0.0))
    ensemble(chunk([0, 0], [-1, 0]))
    assert np.allclose(ensemble(chunk([1, 4], [0, 0])), [0, 2])


def test_chunks_that_do_not_reach_the_present_are_passed_over():
    ensemble = AdaptiveEnsemble(EnsembleSettings(chunks=3))
    ensemble(chunk([7.0]))
    assert np.allclose(ensemble(chunk([1.0])), [1.0])


def test_reset_forgets_what_was_said_before():
    ensemble = AdaptiveEnsemble(WIDOWX)
    ensemble(np.full((16, 2), -1.0))
    ensemble.reset()
    assert np.allclose(ensemble(np.full((16, 2), 1.0)), 1.0)


def test_an_action_of_zeros_does_not_divide_by_zero():
    ensemble = AdaptiveEnsemble(WIDOWX)
    ensemble(np.zeros((16, 7)))
    assert np.allclose(ensemble(np.zeros((16, 7))), 0.0)


@pytest.mark.parametrize("wrong", [np.zeros(7), np.zeros((0, 7)), np.full((2, 7), np.nan)])
def test_what_is_no_chunk_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a chunk of finite actions"):
        AdaptiveEnsemble(WIDOWX)(wrong)


def test_a_chunk_of_another_policy_is_refused_and_changes_nothing():
    ensemble = AdaptiveEnsemble(WIDOWX)
    ensemble(np.ones((16, 7)))
    with pytest.raises(ValueError, match="14 values, the last one's 7"):
        ensemble(np.ones((16, 14)))
    assert np.allclose(ensemble(np.ones((16, 7))), 1.0)


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected 1 or more"):
        AdaptiveEnsemble(EnsembleSettings(0))
