"""What a published VLA promises once it is told about a robot, in the terms of this package's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.known import of_statistics
from actdistill_ros.contract.action_spaces.parts import Reference
from actdistill_ros.contract.chunk import ROTATION, TRANSLATION
from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, ContractError, Statistics


class Settings(Protocol):
    """What a policy's settings have in common; see `OpenVLASettings`."""

    @property
    def camera(self) -> str: ...

    @property
    def frame(self) -> tuple[int, int]: ...

    @property
    def period_s(self) -> float: ...

    @property
    def convention(self) -> Convention | None: ...


def of(
    statistics: Mapping[str, Statistics], key: str, size: int, settings: Settings, chunk: int = 1
) -> tuple[Convention, Contract]:
    """What a model's actions are, and what it promises; one action of a chunk runs, and no state is read. key: of the
    statistics that actions are read with; size: of the square that it sees.

    Raises ContractError if the settings cannot be right, or if it is not known what the actions are.
    """
    if not settings.period_s > 0:
        raise ContractError(f"period_s is {settings.period_s}, expected seconds between two actions, above 0.")
    convention = settings.convention or of_statistics(key)
    metres, radians = largest_step(statistics[key], convention)
    promised = Contract(
        robot=key,
        cameras=(CameraSpec(settings.camera, size, *settings.frame),),
        action=ActionSpace(settings.period_s, chunk, 1, metres, radians),
        statistics=statistics,
        statistics_key=key,
        state=(),
    )
    return convention, promised


def largest_step(statistics: Statistics, convention: Convention) -> tuple[float, float]:
    """What no delta exceeds [m, rad]: actions lie within the range of the data. Poses have no such limit."""
    if convention.reference is Reference.ABSOLUTE:
        return float("inf"), float("inf")
    masked = np.where(statistics.mask, np.maximum(np.abs(statistics.q01), np.abs(statistics.q99)), 1.0)  # (A,)
    turned = masked[ROTATION].sum()  # three turns one after the other go no further than their sum
    return float(np.linalg.norm(masked[TRANSLATION]) * convention.metres), float(turned * convention.radians)
