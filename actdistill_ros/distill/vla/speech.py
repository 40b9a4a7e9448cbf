"""A published teacher's own way of saying an action, and what its saying means: training and run time agree here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Convention, Start
from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER
from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.contract.preprocess import denormalise, normalise
from actdistill_ros.policy.vla.cogact import actions_of
from actdistill_ros.policy.vla.tokens import ActionBins

_APART = 0.5  # openings that a diffusion head's 0 and 1 must at least differ by to be a closed and an open gripper


@dataclass(frozen=True)
class Speech:
    """convention, statistics: of the teacher's un-normalised actions; chunk: actions K of one saying; bins: of a token
    head, None for a diffusion head, whose gripper is 0 or 1."""

    convention: Convention
    statistics: Statistics
    chunk: int
    bins: ActionBins | None

    def __post_init__(self) -> None:
        """Raises ContractError if the head's gripper could not be both closed and open."""
        if self.bins is None and abs(np.subtract(*self._openings())) <= _APART:
            raise ContractError(
                f"a diffusion head's gripper says 0 or 1, which in action space {self.convention.name!r} with these "
                f"statistics are openings {self._openings()[0]:.2f} and {self._openings()[1]:.2f}; expected closed and "
                "open. Name another action_space in deployment.json, or statistics that leave the gripper as it is."
            )

    def measured(self, actions: np.ndarray, start: Start) -> np.ndarray:
        """Actions (K, 7) of the product to the teacher's convention, normalised but not clipped, (K, 7)."""
        own = self.convention.from_product(actions, start)  # (K, 7)
        low, high, mask = map(np.asarray, (self.statistics.q01, self.statistics.q99, self.statistics.mask))
        # A value that never changed in the training data means the same whatever is said for it.
        fixed = mask & (low == high)
        return np.where(fixed, 0.0, normalise(own, _widened(self.statistics, fixed)))

    def say(self, actions: np.ndarray, start: Start) -> np.ndarray:
        """Actions (K, 7) of the product as the teacher's head is trained on them, (K, 7): −1 … 1, what is outside
        clipped as its own training did; the gripper of a diffusion head is 0 or 1, whichever opens it more alike."""
        said = np.clip(self.measured(actions, start), -1.0, 1.0)
        if self.bins is None:
            closed, opened = self._openings()
            said[:, GRIPPER] = np.abs(actions[:, GRIPPER] - opened) <= np.abs(actions[:, GRIPPER] - closed)
        return said

    def meant(self, said: np.ndarray, start: Start) -> np.ndarray:
        """What the policy makes of `said` at run time, (K, 7) in the product's action space; through its words if it
        has words."""
        if self.bins is None:
            return self.convention.to_product(actions_of(said, self.statistics), start)
        heard = self.bins.decode(self.bins.encode(said))
        return self.convention.to_product(denormalise(heard, self.statistics), start)

    def _openings(self) -> tuple[float, float]:
        """Of a diffusion head's gripper at 0 and at 1."""
        said = np.zeros((2, ACTION_DIM))
        said[1, GRIPPER] = 1.0
        own = actions_of(said, self.statistics)  # (2, 7)
        return tuple(self.convention.gripper.openings(own[i : i + 1, GRIPPER], 0.5)[0] for i in range(2))


def _widened(statistics: Statistics, fixed: np.ndarray) -> Statistics:
    high = np.where(fixed, np.asarray(statistics.q01) + 1.0, statistics.q99)
    return Statistics(statistics.q01, tuple(high.tolist()), statistics.mask, statistics.samples)
