"""One step of a published VLA, whatever makes its actions: from an observation to a chunk in the product's own
space."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.action_spaces.convention import Convention, Start
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.policy.planning import FixedPlan, Planner, RoutedPlan
from actdistill_ros.policy.runtime import StepResult
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.router import VlaRouter

_STAGES = ("preprocess", "encode", "router", "decoder", "head")
_SAME = 1e-3  # budgets that differ by less are one


class Head(Protocol):
    """How a model acts. `prompt`, `run` and `actions` are called once each in a step, in this order."""

    def prompt(self, instruction: str) -> list[int]:
        """What it is asked, as the ids that it was trained on; the patches go after the first."""

    def run(self, tokens: Tensor, executed: Sequence[bool]) -> Any:
        """What the executed layers make of tokens (1, N, D), as `actions` takes it."""

    def actions(self, answer: Any, observation: Observation) -> np.ndarray:
        """(K, 7) in the training data's own convention, un-normalised. Raises ContractError if the answer is none."""

    def reset(self) -> None:
        """Another episode begins: what was said before is forgotten."""


class VlaPolicy:
    """Used from one thread at a time. contract: what it promises, as checkpoints of this package say it."""

    def __init__(
        self,
        checkpoint: VlaCheckpoint,
        head: Head,
        contract: Contract,
        convention: Convention,
        planner: Planner | None = None,
        router: VlaRouter | None = None,
    ) -> None:
        """convention: what the head's actions are. planner: which layers a step runs, for the prompt and for what
        follows it; None for all. router: what speaks for each layer; None where the planner does not ask."""
        self.contract, self.checkpoint_id = contract, checkpoint.identity
        self._checkpoint, self._head, self._convention, self._router = checkpoint, head, convention, router
        self._own = self._planner = planner or FixedPlan([True] * self.layers)

    @property
    def layers(self) -> int:
        """Depth of the decoder."""
        return len(self._checkpoint.model.vlm.decoder.layers)

    @property
    def budget(self) -> float:
        """Allowed share of decoder compute, on average over steps."""
        return self._planner.budget

    def set_budget(self, budget: float | None) -> None:
        """From the next step on; None: what it was made for. May be called while a step runs in another thread.

        Raises ContractError if the model cannot keep to it.
        """
        self._planner = self._own if budget is None else self._planner_at(budget)

    def _planner_at(self, budget: float) -> Planner:
        if self._router is None:
            if abs(budget - self._own.budget) > _SAME:
                raise ContractError(
                    f"{self.checkpoint_id} has no router and runs the same {self._own.budget:.3g} of its decoder in "
                    f"every step; budget {budget:g} cannot be met. Name other layers, or make a student of it with "
                    "`actdistill distill`."
                )
            return self._own
        try:
            return RoutedPlan(self._router, budget)
        except ValueError as error:
            raise ContractError(f"{self.checkpoint_id}: {error}.") from error

    def with_planner(self, planner: Planner) -> VlaPolicy:
        """The same weights and the same past, other plans."""
        other = copy(self)
        other._own = other._planner = planner
        return other

    def with_execute(self, execute: int) -> VlaPolicy:
        """The same policy where another number of actions runs of each chunk. Raises ContractError if a chunk does not
        have as many."""
        other = copy(self)
        other.contract = self.contract.executing(execute, self.checkpoint_id)
        return other

    def unseen(self, instruction: str) -> list[str]:
        """Nothing: what it was trained on is not listed in its files."""
        return []

    def reset(self) -> None:
        """Another episode begins: what was said before is forgotten."""
        self._head.reset()

    @torch.inference_mode()
    def step(self, observation: Observation) -> StepResult:
        """Raises ContractError if the camera is missing from the observation, or if the model's answer is no action."""
        camera = self.contract.cameras[0].name
        if camera not in observation.images:
            seen = ", ".join(observation.images) or "none"
            raise ContractError(f"{self.checkpoint_id} needs camera {camera}; the observation has {seen}.")
        vlm, planner = self._checkpoint.model.vlm, self._planner
        weight = vlm.embed.weight
        times = [time.perf_counter()]

        def done() -> None:
            if weight.is_cuda:
                torch.cuda.synchronize(weight.device)
            times.append(time.perf_counter())

        pixels = self._checkpoint.vision.pixels(observation.images[camera]).to(weight.device, weight.dtype)
        ids = torch.tensor([self._head.prompt(observation.instruction)], device=weight.device)  # (1, T)
        done()
        tokens = vlm.embed_inputs(pixels, ids)  # (1, N, D)
        done()
        plan = planner(lambda: self._router.evidence(tokens)[0].cpu().numpy())
        done()
        answer = self._head.run(tokens, plan.executed)
        done()
        chunk = self._chunk(self._head.actions(answer, observation), observation)
        done()
        latency_ms = {name: 1e3 * (b - a) for name, a, b in zip(_STAGES, times[:-1], times[1:], strict=True)}
        latency_ms["step"] = 1e3 * (times[-1] - times[0])
        gates, executed = np.array(plan.gates, dtype=np.float32), np.array(plan.executed)
        return StepResult(chunk, gates, executed, latency_ms, planner.budget)

    def _chunk(self, actions: np.ndarray, observation: Observation) -> Chunk:
        """actions: (K, 7) as the head says them."""
        said = self._convention.to_product(actions, Start(observation.tcp_commanded, observation.gripper_measured))
        space = self.contract.action
        return Chunk(
            said, space.period_s, space.execute, observation.stamp_s, observation.instruction, self.checkpoint_id
        )
