"""CogACT as a policy: a diffusion head samples a chunk under one hidden state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.policy.captured import Capture, CapturedRuns
from actdistill_ros.policy.planning import Planner
from actdistill_ros.policy.vla import promise
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.cogact import actions_of
from actdistill_ros.policy.vla.diffusion import GUIDANCE, SAMPLING_STEPS
from actdistill_ros.policy.vla.ensemble import AdaptiveEnsemble, EnsembleSettings
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.policy.vla.router import VlaRouter

PAUSE = 2.0
"""Periods between two observations from which on the earlier one's chunk says nothing about the later one."""


@dataclass(frozen=True)
class CogACTSettings:
    """camera: the one that it sees; frame: (height, width) of its frames, which are squeezed into the model's square
    whole, as in training; period_s: between two actions of a chunk, as in its training data; execute: how many of a
    chunk run before the next; convention: what its actions are, None for what its statistics say; ensemble: averages
    overlapping chunks, one action per step; seed: of the sampling noise."""

    camera: str
    frame: tuple[int, int]
    period_s: float
    execute: int
    convention: Convention | None = None
    ensemble: EnsembleSettings | None = None
    guidance: float = GUIDANCE
    sampling_steps: int = SAMPLING_STEPS
    seed: int = 0


class Sampler:
    """A chunk out of noise, averaged with what earlier chunks said if there is an ensemble; see `policy.Head`."""

    def __init__(self, checkpoint: VlaCheckpoint, settings: CogACTSettings, capture: Capture | None = None) -> None:
        """capture: of frequent plans; None for none."""
        self._checkpoint, self._settings = checkpoint, settings
        cognition = checkpoint.model.cognition
        self._cognition = CapturedRuns(cognition, capture) if capture else cognition
        self._ensemble = AdaptiveEnsemble(settings.ensemble) if settings.ensemble else None
        self._instruction, self._stamp_s = "", float("-inf")
        self._noise = torch.Generator().manual_seed(settings.seed)

    def prompt(self, instruction: str) -> list[int]:
        return self._checkpoint.reader.cognition_prompt(instruction)

    def run(self, tokens: Tensor, executed: Sequence[bool]) -> Tensor:
        """(1, D), the cognition feature."""
        return self._cognition(tokens, executed)

    def actions(self, answer: Tensor, observation: Observation) -> np.ndarray:
        """(K, 7), or (1, 7) out of several chunks."""
        model, settings = self._checkpoint.model, self._settings
        shape = model.head.shape
        noise = torch.randn(1, shape.chunk, shape.actions, generator=self._noise).to(answer)  # (1, K, A)
        sampled = model.denoise(answer, noise, settings.guidance, settings.sampling_steps)[0]  # (K, A)
        actions = actions_of(sampled.cpu().numpy(), self._checkpoint.active_statistics)  # (K, A)
        if self._ensemble is None:
            return actions
        self._forget_another_moment(observation)
        return self._ensemble(actions)[None]  # (1, A)

    def reset(self) -> None:
        """What was said before is forgotten, and the noise begins anew."""
        if self._ensemble:
            self._ensemble.reset()
        self._noise.manual_seed(self._settings.seed)

    def _forget_another_moment(self, observation: Observation) -> None:
        """Chunks said before a pause or for another instruction are not averaged with this one."""
        pause_s = observation.stamp_s - self._stamp_s
        follows = observation.instruction == self._instruction and 0 <= pause_s <= PAUSE * self._settings.period_s
        if not follows:
            self._ensemble.reset()
        self._instruction, self._stamp_s = observation.instruction, observation.stamp_s


def make(
    checkpoint: VlaCheckpoint,
    settings: CogACTSettings,
    planner: Planner | None = None,
    router: VlaRouter | None = None,
    capture: Capture | None = None,
) -> VlaPolicy:
    """planner, router: see `VlaPolicy`; capture: see `Sampler`.

    Raises ContractError if the settings do not fit the checkpoint.
    """
    if settings.ensemble is not None and settings.execute != 1:
        raise ContractError(f"an ensemble makes one action per step; set execute to 1, not {settings.execute}.")
    try:
        checkpoint.model.schedule.sampling_times(settings.sampling_steps)
    except ValueError as error:
        raise ContractError(f"{checkpoint.identity}: {error}.") from error
    chunk = 1 if settings.ensemble else checkpoint.model.head.shape.chunk
    known, key = checkpoint.statistics, checkpoint.statistics_key
    convention, contract = promise.of(known, key, checkpoint.vision.size, settings, chunk, checkpoint.identity)
    contract = contract.executing(settings.execute, checkpoint.identity)
    return VlaPolicy(checkpoint, Sampler(checkpoint, settings, capture), contract, convention, planner, router)
