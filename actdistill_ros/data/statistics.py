"""Range of each action dimension over the very deltas that are trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.contract import Statistics
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.part import write_text

FILE = "meta/action_statistics.json"
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


def save(folder: Path, key: str, actions: np.ndarray) -> Statistics:
    """Write meta/action_statistics.json: `compute` of the chunks with its hash, as a contract stores them, and mean and
    deviation beside them. Raises as `compute` does."""
    found = compute(actions)
    flat = np.asarray(actions, dtype=np.float64).reshape(-1, ACTION_DIM)
    body = {
        "statistics": {key: asdict(found)},
        "statistics_sha256": {key: found.digest()},
        "mean": flat.mean(0).tolist(),
        "std": flat.std(0).tolist(),
    }
    write_text(json.dumps(body, indent=1) + "\n", folder / FILE)
    return found


def load(folder: Path) -> dict[str, Statistics]:
    """What `save` wrote, by key. Raises DataError if it is missing or does not match its hash."""
    path = folder / FILE
    try:
        body = json.loads(path.read_text())
        found = {
            key: Statistics(tuple(each["q01"]), tuple(each["q99"]), tuple(each["mask"]), each["samples"])
            for key, each in body["statistics"].items()
        }
        hashes = {key: each.digest() for key, each in found.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); import the data set again.") from error
    if hashes != body.get("statistics_sha256"):
        raise DataError(f"{path} does not match its hash; it was changed by hand. Import the data set again.")
    return found
