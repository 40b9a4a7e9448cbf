"""SIMPLER's Google robot closes its gripper over several steps: a push, once begun, is held."""

from __future__ import annotations

GOOGLE_ROBOT_STEPS = 10
_CHANGE = 0.5


class StickyGripper:
    """Openings 0 … 1, one per step, to the pushes that SIMPLER's Google robot takes: + closes, − opens, 0 keeps
    (microsoft/CogACT sim_cogact/cogact_policy.py, simpler-env/SimplerEnv).

    A change of more than one half begins a push of its size; it is repeated for `steps` steps in all, and changes in
    the meantime are not looked at.
    """

    def __init__(self, steps: int = GOOGLE_ROBOT_STEPS) -> None:
        self._steps = steps
        self.reset()

    def reset(self) -> None:
        """Another episode begins."""
        self._before: float | None = None
        self._push = 0.0
        self._left = 0

    def __call__(self, opening: float) -> float:
        if self._before is None:
            self._before = opening
        change = self._before - opening
        if not self._left and abs(change) > _CHANGE:
            self._push, self._left, self._before = change, self._steps, opening
        if not self._left:
            return change
        self._left -= 1
        return self._push
