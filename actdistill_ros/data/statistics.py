"""Range of each action dimension over the very deltas that are trained on."""

from __future__ import annotations

import numpy as np

from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.contract import Statistics
from actdistill_ros.data.episode import DataError

TRANSLATION_RANGE_MIN_M = 2e-3
ROTATION_RANGE_MIN_RAD = 1e-2


def compute(actions: np.ndarray) -> Statistics:
    """Statistics of actions (N, 7) or chunks (N, K, 7); the gripper opening is already 0 … 1 and is passed through.

    A dimension that hardly moves gets the smallest range around its centre: dividing by its noise would make
    solver residue look like motion.

    Raises DataError if there is nothing to count or a value is not finite.
    """
    flat = np.asarray(actions, dtype=np.float64)
    if flat.ndim not in (2, 3) or flat.shape[-1] != ACTION_DIM or not flat.size:
        raise DataError(
            f"statistics need actions (N, {ACTION_DIM}) or chunks (N, K, {ACTION_DIM}) with N > 0, found {flat.shape}."
        )
    flat = flat.reshape(-1, ACTION_DIM)
    if not np.isfinite(flat).all():
        broken = int((~np.isfinite(flat).all(1)).sum())
        raise DataError(f"{broken} of {len(flat)} actions are not finite; remove them before training.")
    q01, q99 = np.quantile(flat, [0.01, 0.99], axis=0)
    smallest = np.zeros(ACTION_DIM)
    smallest[TRANSLATION], smallest[ROTATION] = TRANSLATION_RANGE_MIN_M, ROTATION_RANGE_MIN_RAD
    centre, half = (q01 + q99) / 2, np.maximum(q99 - q01, smallest) / 2
    mask = np.ones(ACTION_DIM, dtype=bool)
    mask[GRIPPER] = False
    low, high = np.where(mask, centre - half, 0.0), np.where(mask, centre + half, 1.0)
    return Statistics(tuple(low.tolist()), tuple(high.tolist()), tuple(mask.tolist()), len(flat))
