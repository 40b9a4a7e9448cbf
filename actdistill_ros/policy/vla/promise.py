"""What a published VLA promises once it is told about a robot, in the terms of this package's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.parts import Reference
from actdistill_ros.contract.chunk import ROTATION, TRANSLATION
from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, Statistics


def contract(
    statistics: Mapping[str, Statistics],
    key: str,
    convention: Convention,
    camera: CameraSpec,
    period_s: float,
    chunk: int = 1,
    execute: int = 1,
) -> Contract:
    """key: the statistics that actions are read with; convention: what they are then. No state is read."""
    metres, radians = largest_step(statistics[key], convention)
    return Contract(
        robot=key,
        cameras=(camera,),
        action=ActionSpace(period_s, chunk, execute, metres, radians),
        statistics=statistics,
        statistics_key=key,
        state=(),
    )


def largest_step(statistics: Statistics, convention: Convention) -> tuple[float, float]:
    """What no delta exceeds [m, rad]: actions lie within the range of the data. Poses have no such limit."""
    if convention.reference is Reference.ABSOLUTE:
        return float("inf"), float("inf")
    masked = np.where(statistics.mask, np.maximum(np.abs(statistics.q01), np.abs(statistics.q99)), 1.0)  # (A,)
    turned = masked[ROTATION].sum()  # three turns one after the other go no further than their sum
    return float(np.linalg.norm(masked[TRANSLATION]) * convention.metres), float(turned * convention.radians)
