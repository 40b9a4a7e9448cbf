"""One step of an OpenVLA checkpoint: from an observation to one action in the product's own action space."""

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
from actdistill_ros.contract.preprocess import denormalise
from actdistill_ros.policy.planning import Plan
from actdistill_ros.policy.runtime import StepResult
from actdistill_ros.policy.vla import promise
from actdistill_ros.policy.vla.checkpoint import ACTION_DIM, OpenVLACheckpoint


@dataclass(frozen=True)
class OpenVLASettings:
    """camera: the one that it sees; frame: (height, width) of its frames, which are squeezed into the model's square
    whole, as in training; period_s: between two actions, as in its training data; convention: what its actions are,
    None for what its statistics say."""

    camera: str
    frame: tuple[int, int]
    period_s: float
    convention: Convention | None = None


class OpenVLAPolicy:
    """Used from one thread at a time. contract: what it promises, as checkpoints of this package say it."""

    def __init__(
        self,
        checkpoint: OpenVLACheckpoint,
        settings: OpenVLASettings,
        plan: Callable[[Tensor], Plan] | None = None,
        budget: float = 1.0,
    ) -> None:
        """plan: which layers a step runs, chosen from what the decoder is given, (1, N, D); by default all. It holds
        for the prompt and for every action word. budget: the share of decoder compute that the plans keep to on
        average.

        Raises ContractError if the settings do not fit the checkpoint.
        """
        if not settings.period_s > 0:
            raise ContractError(f"period_s is {settings.period_s}, expected seconds between two actions, above 0.")
        self._checkpoint, self._settings, self.budget = checkpoint, settings, budget
        self._convention = settings.convention or of_statistics(checkpoint.statistics_key)
        camera = CameraSpec(settings.camera, checkpoint.vision.size, *settings.frame)
        self.contract = promise.contract(
            checkpoint.statistics, checkpoint.statistics_key, self._convention, camera, settings.period_s
        )
        self.checkpoint_id = checkpoint.identity
        every = Plan((1.0,) * self.layers, (True,) * self.layers)
        self._plan = plan or (lambda tokens: every)

    @property
    def layers(self) -> int:
        return len(self._checkpoint.model.vlm.decoder.layers)

    @torch.inference_mode()
    def step(self, observation: Observation) -> StepResult:
        """Raises ContractError if the camera is missing from the observation, or if the model says a word that is no
        action."""
        if self._settings.camera not in observation.images:
            seen = ", ".join(observation.images) or "none"
            raise ContractError(
                f"{self.checkpoint_id} needs camera {self._settings.camera}; the observation has {seen}."
            )
        model, weight = self._checkpoint.model, self._checkpoint.model.lm_head.weight
        times = [time.perf_counter()]

        def done() -> None:
            if weight.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        image = observation.images[self._settings.camera]
        pixels = self._checkpoint.vision.pixels(image).to(weight.device, weight.dtype)  # (1, 6, S, S)
        ids = torch.tensor([self._checkpoint.reader.action_prompt(observation.instruction)], device=weight.device)
        done()
        tokens = model.vlm.embed_inputs(pixels, ids)  # (1, N, D)
        done()
        plan = self._plan(tokens)
        done()
        words = model.speak(tokens, plan.executed, ACTION_DIM)
        done()
        chunk = self._chunk(words, observation)
        done()
        stages = ("preprocess", "encode", "router", "decoder", "head")
        latency_ms = {name: 1e3 * (b - a) for name, a, b in zip(stages, times[:-1], times[1:], strict=True)}
        latency_ms["step"] = 1e3 * (times[-1] - times[0])
        gates, executed = np.array(plan.gates, dtype=np.float32), np.array(plan.executed)
        return StepResult(chunk, gates, executed, latency_ms, self.budget)

    def _chunk(self, words: tuple[int, ...], observation: Observation) -> Chunk:
        bins = self._checkpoint.bins
        # The nearest bin of a word that is no action is the end of the range: the arm would jump.
        if not bins.are_actions(words):
            raise ContractError(
                f"{self.checkpoint_id} said words {words}, not all of them actions ({bins.vocabulary - bins.count} … "
                f"{bins.vocabulary - 1}): nothing is sent. It was not trained on such a picture or instruction, or too "
                "few of its layers run."
            )
        action = denormalise(bins.decode(words), self._checkpoint.active_statistics)[None]  # (1, 7)
        start = Start(observation.tcp_commanded, observation.gripper_measured)
        product = self._convention.to_product(action, start)  # (1, 7)
        period_s = self._settings.period_s
        return Chunk(product, period_s, 1, observation.stamp_s, observation.instruction, self.checkpoint_id)
