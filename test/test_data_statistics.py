"""Statistics: over the deltas that are trained on, and never a division by zero."""

import numpy as np
import pytest

from actdistill_ros.contract.preprocess import denormalise, normalise
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.statistics import ROTATION_RANGE_MIN_RAD, compute


def actions(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = rng.normal(0, [0.01, 0.02, 0.01, 0.1, 0.1, 0.1, 0], (*shape, 7))
    values[..., 6] = rng.integers(0, 2, shape)
    return values


def test_quantiles_are_those_of_every_action_of_every_chunk():
    chunks = actions(200, 8)
    found = compute(chunks)
    assert np.allclose(found.q01[:6], np.quantile(chunks.reshape(-1, 7), 0.01, axis=0)[:6])
    assert np.allclose(found.q99[:6], np.quantile(chunks.reshape(-1, 7), 0.99, axis=0)[:6])
    assert found.samples == 1600
    assert compute(chunks.reshape(-1, 7)) == found


def test_the_gripper_opening_is_passed_through():
    found = compute(actions(100))
    assert found.mask == (True,) * 6 + (False,)
    assert np.array_equal(normalise(actions(100), found)[:, 6], actions(100)[:, 6])


def test_a_dimension_that_never_moves_stays_small_and_comes_back():
    values = actions(100)
    values[:, 3] = 0.25
    values[:, 4] = np.random.default_rng(0).normal(0, 1e-7, 100)
    found = compute(values)
    assert found.q99[3] - found.q01[3] == pytest.approx(ROTATION_RANGE_MIN_RAD)
    scaled = normalise(values, found)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled[:, 3]).max() < 1e-6 and np.abs(scaled[:, 4]).max() < 1e-3
    assert np.allclose(denormalise(scaled, found), values)


def test_actions_that_cannot_be_counted_are_refused():
    with pytest.raises(DataError, match=r"N > 0, found \(0, 7\)"):
        compute(np.empty((0, 7)))
    with pytest.raises(DataError, match=r"found \(5, 6\)"):
        compute(np.zeros((5, 6)))
    broken = actions(10)
    broken[3, 2] = np.inf
    with pytest.raises(DataError, match="1 of 10 actions are not finite"):
        compute(broken)
