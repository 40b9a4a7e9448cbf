"""The action statistics that a VLA checkpoint ships, and which of them a robot's actions are un-normalised with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.policy.vla.layout import CONFIG, read_json

FILE = "dataset_statistics.json"  # fine-tunes write it; it overrules what config.json still has of the base model
_SUFFIX = "_no_noops"  # LIBERO's fine-tunes name a suite with it or without it


def read(folder: Path, config: Mapping) -> dict[str, Statistics]:
    """Statistics by dataset key.

    Raises ContractError if there are none, if a file cannot be read or if one of them cannot be right.
    """
    path, where = folder / FILE, place(folder)
    body = read_json(path) if path.is_file() else config.get("norm_stats")
    if not isinstance(body, Mapping) or not body:
        raise ContractError(
            f"{folder} has no action statistics; expected {FILE} or norm_stats in config.json. Without them the "
            "model's actions have no unit. Copy the file from where the checkpoint came from."
        )
    return {key: _statistics(value, f"{where}: {key}") for key, value in body.items()}


def place(folder: Path) -> str:
    """Where a folder's statistics are, for errors' text."""
    path = folder / FILE
    return str(path) if path.is_file() else f"{folder / CONFIG}: norm_stats"


def choose(statistics: Mapping[str, Statistics], key: str | None, folder: Path) -> str:
    """The key to un-normalise with. key: as asked for, with or without LIBERO's suffix; None takes the only one.

    Raises ContractError, listing the valid keys, if it is not there or if none was named among several.
    """
    valid = ", ".join(sorted(statistics))
    if key is None:
        if len(statistics) == 1:
            return next(iter(statistics))
        raise ContractError(f"{folder} has statistics of {len(statistics)} datasets; name one of {valid}.")
    for spelling in (key, key + _SUFFIX, key.removesuffix(_SUFFIX)):
        if spelling in statistics:
            return spelling
    near = difflib.get_close_matches(key, statistics, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ContractError(f"{folder} has no statistics {key!r}; valid keys: {valid}.{hint}")


def _statistics(body: object, where: str) -> Statistics:
    try:
        action = body["action"]
        q01, q99 = (np.array(action[name], dtype=float) for name in ("q01", "q99"))
        mask = np.array(action.get("mask", np.ones(len(q01), bool)), dtype=bool)
        samples = int(body.get("num_transitions", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"{where}: expected action.q01 and action.q99, lists of numbers; {error!r}.") from error
    if not (q01.ndim == 1 and q01.shape == q99.shape == mask.shape):
        raise ContractError(f"{where}: q01, q99 and mask have shapes {q01.shape}, {q99.shape}, {mask.shape}, not one.")
    if not (np.isfinite(q01).all() and np.isfinite(q99).all()):
        raise ContractError(f"{where}: q01 or q99 is not finite; compute the statistics again.")
    if wrong := [i for i in range(len(q01)) if mask[i] and q01[i] > q99[i]]:
        raise ContractError(f"{where}: q01 is above q99 in dimension {wrong[0]}; the two are swapped or of other data.")
    return Statistics(tuple(q01.tolist()), tuple(q99.tolist()), tuple(mask.tolist()), samples)
