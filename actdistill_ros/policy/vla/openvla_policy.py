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
from actdistill_ros.policy.captured import Capture, CapturedRuns
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

    def __init__(self, checkpoint: VlaCheckpoint, capture: Capture | None = None) -> None:
        """capture: of frequent plans; None for none."""
        self._checkpoint = checkpoint
        self._words = CapturedRuns(self._say, capture) if capture else self._say

    def _say(self, tokens: Tensor, executed: Sequence[bool]) -> Tensor:
        return self._checkpoint.model.words(tokens, executed, ACTION_DIM)  # (1, 7)

    def prompt(self, instruction: str) -> list[int]:
        return self._checkpoint.reader.action_prompt(instruction)

    def run(self, tokens: Tensor, executed: Sequence[bool]) -> tuple[int, ...]:
        return tuple(self._words(tokens, executed)[0].tolist())

    def actions(self, answer: tuple[int, ...], observation: Observation) -> np.ndarray:
        """(1, 7). Raises ContractError if a word is no action."""
        bins = self._checkpoint.bins
        # The nearest bin of a word that is no action is the end of the range: the arm would jump.
        if not bins.are_actions(answer):
            raise ContractError(
                f"{self._checkpoint.identity} said words {answer}, not all of them actions "
                f"({bins.vocabulary - bins.count} … {bins.vocabulary - 1}): nothing is sent. It was not trained on "
                "such a picture or instruction, or too few of its layers run."
            )
        return denormalise(bins.decode(answer), self._checkpoint.active_statistics)[None]  # (1, 7)

    def reset(self) -> None:
        """Nothing of an episode is kept."""


def make(
    checkpoint: VlaCheckpoint,
    settings: OpenVLASettings,
    planner: Planner | None = None,
    router: VlaRouter | None = None,
    capture: Capture | None = None,
) -> VlaPolicy:
    """planner, router: see `VlaPolicy`; capture: see `Speaker`.

    Raises ContractError if the settings do not fit the checkpoint.
    """
    known, key = checkpoint.statistics, checkpoint.statistics_key
    convention, contract = promise.of(known, key, checkpoint.vision.size, settings, where=checkpoint.identity)
    return VlaPolicy(checkpoint, Speaker(checkpoint, capture), contract, convention, planner, router)
