"""One step of a CogACT checkpoint: from an observation to a chunk in the product's own action space."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.action_spaces.convention import Convention, Start
from actdistill_ros.contract.action_spaces.known import of_statistics
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.contract import CameraSpec, ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.policy.planning import Plan
from actdistill_ros.policy.runtime import StepResult
from actdistill_ros.policy.vla import promise
from actdistill_ros.policy.vla.cogact import actions_of
from actdistill_ros.policy.vla.cogact_checkpoint import CogACTCheckpoint
from actdistill_ros.policy.vla.diffusion import GUIDANCE, SAMPLING_STEPS
from actdistill_ros.policy.vla.ensemble import AdaptiveEnsemble, EnsembleSettings

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


class CogACTPolicy:
    """Used from one thread at a time. contract: what it promises, as checkpoints of this package say it."""

    def __init__(
        self,
        checkpoint: CogACTCheckpoint,
        settings: CogACTSettings,
        plan: Callable[[Tensor], Plan] | None = None,
        budget: float = 1.0,
    ) -> None:
        """plan: which layers a step runs, chosen from what the decoder is given, (1, N, D); by default all. budget: the
        share of decoder compute that the plans keep to on average.

        Raises ContractError if the settings do not fit the checkpoint.
        """
        chunk = checkpoint.model.head.shape.chunk
        if not 1 <= settings.execute <= chunk:
            raise ContractError(
                f"{checkpoint.identity} makes chunks of {chunk} actions; execute {settings.execute} is not one of "
                f"1 … {chunk}."
            )
        if settings.ensemble is not None and settings.execute != 1:
            raise ContractError(f"an ensemble makes one action per step; set execute to 1, not {settings.execute}.")
        if not settings.period_s > 0:
            raise ContractError(f"period_s is {settings.period_s}, expected seconds between two actions, above 0.")
        try:
            checkpoint.model.schedule.sampling_times(settings.sampling_steps)
        except ValueError as error:
            raise ContractError(f"{checkpoint.identity}: {error}.") from error
        self._checkpoint, self._settings = checkpoint, settings
        self._convention = settings.convention or of_statistics(checkpoint.statistics_key)
        camera = CameraSpec(settings.camera, checkpoint.vision.size, *settings.frame)
        self.contract = promise.contract(
            checkpoint.statistics, checkpoint.statistics_key, self._convention, camera, settings.period_s,
            chunk=1 if settings.ensemble else chunk, execute=settings.execute,
        )  # fmt: skip
        self.checkpoint_id = checkpoint.identity
        self._plan, self._budget = plan or _all_layers(len(checkpoint.model.vlm.decoder.layers)), budget
        self._ensemble = AdaptiveEnsemble(settings.ensemble) if settings.ensemble else None
        self._instruction, self._stamp_s = "", float("-inf")
        self._noise = torch.Generator().manual_seed(settings.seed)

    def reset(self) -> None:
        """Another episode begins: what was said before is forgotten, and the noise begins anew."""
        if self._ensemble:
            self._ensemble.reset()
        self._noise.manual_seed(self._settings.seed)

    @torch.inference_mode()
    def step(self, observation: Observation) -> StepResult:
        """Raises ContractError if the camera is missing from the observation."""
        settings, model = self._settings, self._checkpoint.model
        if settings.camera not in observation.images:
            seen = ", ".join(observation.images) or "none"
            raise ContractError(f"{self.checkpoint_id} needs camera {settings.camera}; the observation has {seen}.")
        self._forget_another_moment(observation)
        times = [time.perf_counter()]

        def done() -> None:
            if model.head.positional_embedding.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        weight = model.vlm.embed.weight
        pixels = self._checkpoint.vision.pixels(observation.images[settings.camera]).to(weight.device, weight.dtype)
        ids = torch.tensor([self._checkpoint.reader.cognition_prompt(observation.instruction)], device=weight.device)
        done()
        tokens = model.vlm.embed_inputs(pixels, ids)  # (1, N, D)
        done()
        plan = self._plan(tokens)
        done()
        cognition = model.cognition(tokens, plan.executed)  # (1, D)
        done()
        shape = model.head.shape
        noise = torch.randn(1, shape.chunk, shape.actions, generator=self._noise).to(cognition)  # (1, K, A)
        sampled = model.denoise(cognition, noise, settings.guidance, settings.sampling_steps)[0]  # (K, A)
        chunk = self._chunk(sampled.cpu().numpy(), observation)
        done()
        stages = ("preprocess", "encode", "router", "decoder", "head")
        latency_ms = {name: 1e3 * (b - a) for name, a, b in zip(stages, times[:-1], times[1:], strict=True)}
        latency_ms["step"] = 1e3 * (times[-1] - times[0])
        gates, executed = np.array(plan.gates, dtype=np.float32), np.array(plan.executed)
        return StepResult(chunk, gates, executed, latency_ms, self._budget)

    def _forget_another_moment(self, observation: Observation) -> None:
        """Chunks said before a pause or for another instruction are not averaged with this one."""
        pause_s = observation.stamp_s - self._stamp_s
        follows = observation.instruction == self._instruction and 0 <= pause_s <= PAUSE * self._settings.period_s
        if self._ensemble and not follows:
            self._ensemble.reset()
        self._instruction, self._stamp_s = observation.instruction, observation.stamp_s

    def _chunk(self, sampled: np.ndarray, observation: Observation) -> Chunk:
        actions = actions_of(sampled, self._checkpoint.active_statistics)  # (K, A)
        if self._ensemble:
            actions = self._ensemble(actions)[None]  # (1, A)
        start, settings = Start(observation.tcp_commanded, observation.gripper_measured), self._settings
        said = self._convention.to_product(actions, start)  # (K, 7)
        return Chunk(
            said, settings.period_s, settings.execute, observation.stamp_s, observation.instruction, self.checkpoint_id
        )


def _all_layers(count: int) -> Callable[[Tensor], Plan]:
    plan = Plan((1.0,) * count, (True,) * count)
    return lambda tokens: plan
