"""OpenVLA as a policy: its next words are the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.contract.preprocess import denormalise
from actdistill_ros.policy.planning import Planner
from actdistill_ros.policy.vla import promise
from actdistill_ros.policy.vla.checkpoint import ACTION_DIM, VlaCheckpoint
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.policy.vla.router import VlaRouter


@dataclass(frozen=True)
class OpenVLASettings:
    """camera: the one that it sees; frame: (height, width) of its frames, which are squeezed into the model's square
    whole, as in training; period_s: between two actions, as in its training data; convention: what its actions are,
    None for what its statistics say."""

    camera: str
    frame: tuple[int, int]
    period_s: float
    convention: Convention | None = None


class Speaker:
    """The seven likeliest words, one after the other; see `policy.Head`."""

    def __init__(self, checkpoint: VlaCheckpoint) -> None:
        self._checkpoint = checkpoint

    def prompt(self, instruction: str) -> list[int]:
        return self._checkpoint.reader.action_prompt(instruction)

    def run(self, tokens: Tensor, executed: Sequence[bool]) -> tuple[int, ...]:
        return self._checkpoint.model.speak(tokens, executed, ACTION_DIM)

    def actions(self, answer: tuple[int, ...], observation: Observation) -> np.ndarray:
        """(1, 7). Raises ContractError if a word is no action."""
        bins = self._checkpoint.bins
        # The nearest bin of a word that is no action is the end of the range: the arm would jump.
        if not bins.are_actions(answer):
            raise ContractError(
                f"{self._checkpoint.identity} said words {answer}, not all of them actions "
                f"({bins.vocabulary - bins.count} … {bins.vocabulary - 1}): nothing is sent. It was not trained on such a "
                "picture or instruction, or too few of its layers run."
            )
        return denormalise(bins.decode(answer), self._checkpoint.active_statistics)[None]  # (1, 7)

    def reset(self) -> None:
        """Nothing of an episode is kept."""


def make(
    checkpoint: VlaCheckpoint,
    settings: OpenVLASettings,
    planner: Planner | None = None,
    router: VlaRouter | None = None,
) -> VlaPolicy:
    """planner, router: see `VlaPolicy`. Raises ContractError if the settings do not fit the checkpoint."""
    convention, contract = promise.of(checkpoint, settings)
    return VlaPolicy(checkpoint, Speaker(checkpoint), contract, convention, planner, router)
