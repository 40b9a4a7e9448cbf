"""What a published VLA promises once it is told about a robot, in the terms of this package's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from math import tau
from typing import Protocol

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.known import of_statistics
from actdistill_ros.contract.action_spaces.parts import Reference
from actdistill_ros.contract.chunk import ACTION_NAMES, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, ContractError, Statistics

LONGEST_M, WIDEST_RAD = 1.0, tau
"""Of one action's deltas: no arm on a table goes further in a period, so statistics that say so are wrong."""


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
    statistics: Mapping[str, Statistics], key: str, size: int, settings: Settings, chunk: int = 1, where: str = ""
) -> tuple[Convention, Contract]:
    """What a model's actions are, and what it promises; one action of a chunk runs, and no state is read. key: of the
    statistics that actions are read with; size: of the square that it sees; where: they are from, for errors' text.

    Raises ContractError if the settings or the statistics cannot be right, or if it is not known what the actions are.
    """
    if not settings.period_s > 0:
        raise ContractError(f"period_s is {settings.period_s}, expected seconds between two actions, above 0.")
    convention = settings.convention or of_statistics(key)
    check_range(statistics[key], convention, f"{where}: {key}" if where else key)
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


def check_range(statistics: Statistics, convention: Convention, where: str) -> None:
    """Raises ContractError if actions un-normalised so would move nothing, drift whatever the model says, or go further
    than any arm does in one action. A direction that the data never went, 0 … 0, is none of these."""
    q01, q99, mask = (np.array(x) for x in (statistics.q01, statistics.q99, statistics.mask))  # (A,) each
    fixed = mask & (q01 == q99)
    if fixed[TRANSLATION].all():
        raise ContractError(
            f"{where}: q01 and q99 are the same in dimensions 0, 1 and 2, {q01[TRANSLATION].tolist()}: the arm would "
            "never be moved. Copy the statistics again from where the checkpoint came from."
        )
    if convention.reference is Reference.ABSOLUTE:
        return
    for i in np.flatnonzero(fixed[:GRIPPER] & (q01[:GRIPPER] != 0)):
        raise ContractError(
            f"{where}: q01 and q99 are both {q01[i]:g} in dimension {i} ({ACTION_NAMES[i]}): every action would move "
            "by it. Copy the statistics again from where the checkpoint came from."
        )
    metres, radians = largest_step(statistics, convention)
    reach = np.where(mask, np.maximum(np.abs(q01), np.abs(q99)), 1.0)  # (A,)
    for part, size, most, unit in ((TRANSLATION, metres, LONGEST_M, "m"), (ROTATION, radians, WIDEST_RAD, "rad")):
        if size > most:
            i = part.start + int(np.argmax(reach[part]))
            span = f"{q01[i]:g} … {q99[i]:g}" if mask[i] else "not masked, so -1 … 1"
            raise ContractError(
                f"{where}: dimension {i} ({ACTION_NAMES[i]}) is {span}: one action could be {size:.3g} {unit}, "
                f"expected no more than {most:.3g}. The statistics are of another unit or damaged, or action_space "
                f"{convention.name!r} is not theirs: correct the one or the other."
            )
