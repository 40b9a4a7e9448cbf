"""What the arm may be doing, and which requests may change it."""

from __future__ import annotations

from enum import Enum, IntEnum


class Mode(IntEnum):
    """Values of ArmState.mode."""

    IDLE = 0  # no position targets: motors only damp
    POLICY = 1  # follows the policy's chunks
    TELEOP = 2  # follows the operator: a jog under the dead-man, or a trajectory
    HOLD = 3  # comes to rest and stays at the commanded joints
    ESTOP = 4  # damps, latched
    DAMPING = 5  # damps because holding is no longer safe


LIMP = (Mode.IDLE, Mode.ESTOP, Mode.DAMPING)
"""Modes without position targets; leaving one starts from the measured joints."""


class Cause(Enum):
    """Why the arm holds; decides who may end the hold. The operator's dead-man ends any, once no fault is present."""

    OPERATOR = "operator"  # asked for: only a request ends it
    SILENT = "silent"  # no chunk came: the next valid one ends it
    REFUSED = "refused"  # a chunk or an action was refused: the next valid chunk ends it
    FEEDBACK = "feedback"  # stale: the next valid chunk ends it once the feedback is fresh again
    MOTOR = "motor"  # a motor reported a fault: only a request ends it
    ASTRAY = "astray"  # the arm is not where it was told to be: only a request ends it
    TELEOP = "teleop"  # teleop fell silent or made no sense: only a request ends it, and in the end damping


RESUMES = (Cause.SILENT, Cause.REFUSED, Cause.FEEDBACK)


def refusal(now: Mode, wanted: Mode, reset: bool, faults: tuple[str, ...], operator_holds: bool = False) -> str:
    """Why `wanted` may not follow `now`; empty if it may. operator_holds: whether the dead-man is held now."""
    if wanted in (Mode.ESTOP, Mode.DAMPING):
        return "" if wanted is Mode.ESTOP or now is not Mode.ESTOP else _LATCHED
    if now is Mode.ESTOP and not reset:
        return _LATCHED
    if wanted is Mode.POLICY and operator_holds:
        return "teleop commands the arm and goes before the policy: let go of the dead-man, then ask again"
    stiff_already = wanted is Mode.HOLD and now not in LIMP
    if wanted is not Mode.IDLE and faults and not stiff_already:
        return f"the arm has faults: {'; '.join(faults)}"
    return ""


_LATCHED = "the emergency stop is latched: ask again with reset once the arm is safe"
