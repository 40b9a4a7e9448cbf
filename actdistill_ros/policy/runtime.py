"""One step of a loaded checkpoint: from an observation to a chunk, with what was executed and how long it took."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from actdistill_ros.contract.chunk import GRIPPER, Chunk
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.contract.preprocess import denormalise, policy_view, state_vector
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.engine import INSTRUCTIONS, Engine, Seen, best, to_input
from actdistill_ros.policy.model import METRES_TO_UNITS, Policy
from actdistill_ros.policy.planning import FixedPlan, Planner, RoutedPlan
from actdistill_ros.policy.recent import RecentActions
from actdistill_ros.policy.tokenizer import UNKNOWN, Tokenizer, words


@dataclass(frozen=True)
class StepResult:
    """chunk: what to do; gates: (L,) score of each decoder layer; executed: (L,) bool, the plan; latency_ms: time of
    each stage; budget: allowed share of decoder compute, on average."""

    chunk: Chunk
    gates: np.ndarray
    executed: np.ndarray
    latency_ms: dict[str, float]
    budget: float

    @property
    def compute_share(self) -> float:
        """Executed share of decoder compute: every layer costs the same."""
        return float(np.mean(self.executed))


class PolicyRuntime:
    """A checkpoint ready to run. Used from one thread at a time.

    A router that is told recent actions takes the last chunk's first `execute` actions for done when the next
    observation comes. Whoever begins another episode says so with `reset`; another instruction or a pause does it too.
    """

    def __init__(
        self,
        model: Policy,
        contract: Contract,
        checkpoint_id: str,
        device: str = "cpu",
        planner: Planner | None = None,
        engine: Engine | None = None,
    ) -> None:
        """planner: by default the router under the budget it was made for, or all layers where there is no router.
        engine: by default the fastest that is installed; it takes the model as it is now."""
        self.contract, self.checkpoint_id = contract, checkpoint_id
        self._model, self._device = model, device
        tokenizer = Tokenizer(model.config.vocabulary)
        self._ids = lru_cache(INSTRUCTIONS)(lambda instruction: tuple(tokenizer.encode(instruction)) or (UNKNOWN,))
        self._planner = planner or self._planner_at(self._own_budget)
        self._engine = engine or best(model, device)
        told = model.config.router.recent if model.config.router else 0
        self._recent = RecentActions(told, contract.active_statistics)
        # Un-normalising is affine: what it makes of 0 and 1 says what it makes of everything.
        none, one = np.zeros(len(contract.action.names)), np.ones(len(contract.action.names))
        self._offset = denormalise(none, contract.active_statistics)
        self._span = denormalise(one, contract.active_statistics) - self._offset

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> PolicyRuntime:
        """Raises ContractError if the folder is not a whole, fitting checkpoint."""
        model, contract = checkpoint.load(folder, device)
        return cls(model, contract, checkpoint.identity(folder), device)

    def with_plan(self, plan: Sequence[bool]) -> PolicyRuntime:
        """The same weights with a fixed plan. Raises ValueError if its length is not the decoder's depth."""
        if len(plan) != self._model.config.layers:
            raise ValueError(f"the plan names {len(plan)} layers, the decoder has {self._model.config.layers}")
        return self.with_planner(FixedPlan(plan))

    def with_planner(self, planner: Planner) -> PolicyRuntime:
        return self._like(planner, self._engine)

    def with_execute(self, execute: int) -> PolicyRuntime:
        """The same policy where another number of actions runs of each chunk.

        Raises ContractError if a chunk does not have as many.
        """
        contract = self.contract.executing(execute, self.checkpoint_id)
        return PolicyRuntime(self._model, contract, self.checkpoint_id, self._device, self._planner, self._engine)

    def with_engine(self, engine: Engine) -> PolicyRuntime:
        """The same plans, computed by another engine of the same model."""
        return self._like(self._planner, engine)

    def _like(self, planner: Planner, engine: Engine) -> PolicyRuntime:
        return PolicyRuntime(self._model, self.contract, self.checkpoint_id, self._device, planner, engine)

    @property
    def model(self) -> Policy:
        return self._model

    @property
    def engine(self) -> str:
        """What computes a step: `onnxruntime` or `torch`."""
        return self._engine.name

    @property
    def layers(self) -> int:
        """Depth of the decoder."""
        return self._model.config.layers

    @property
    def budget(self) -> float:
        """Allowed share of decoder compute, on average over steps."""
        return self._planner.budget

    def set_budget(self, budget: float | None) -> None:
        """From the next step on; None: what the checkpoint was made for. May be called while a step runs in
        another thread.

        Raises ContractError if the checkpoint cannot keep to it.
        """
        self._planner = self._planner_at(self._own_budget if budget is None else budget)

    @property
    def _own_budget(self) -> float:
        return self._model.config.router.budget if self._model.router else 1.0

    def _planner_at(self, budget: float) -> Planner:
        if self._model.router is None:
            if budget != 1.0:
                raise ContractError(
                    f"{self.checkpoint_id} has no router and runs all its layers: budget {budget:g} cannot be met, "
                    "expected 1. Make a student of it with `actdistill distill`."
                )
            return FixedPlan([True] * self._model.config.layers)
        try:
            return RoutedPlan(self._model.router, budget)
        except ValueError as error:
            raise ContractError(f"{self.checkpoint_id}: {error}.") from error

    def unseen(self, instruction: str) -> list[str]:
        """The three closest known instructions if this one was never seen in training, else nothing."""
        spoken = " ".join(words(instruction))
        if all(part in self.contract.instructions for part in spoken.split(" then ")):
            return []
        return difflib.get_close_matches(spoken, self.contract.instructions, n=3, cutoff=0.0)

    def reset(self) -> None:
        """Another episode begins: what was done before is forgotten."""
        self._recent.forget()

    @torch.inference_mode()
    def step(self, observation: Observation) -> StepResult:
        """Raises ContractError if a camera of the contract is missing from the observation."""
        start = time.perf_counter()
        seen = self.seen(observation)
        prepared = time.perf_counter()
        tokens = self._engine.encode(seen)
        encoded = time.perf_counter()
        planner = self._planner
        plan = planner(lambda: self._engine.evidence(tokens))
        planned = time.perf_counter()
        hidden = self._engine.decode(tokens, plan.executed)
        decoded = time.perf_counter()
        chunk = self._chunk(self._engine.act(hidden), observation)
        self._recent.said(chunk, seen.recent)
        end = time.perf_counter()
        stages = {
            "preprocess": prepared - start,
            "encode": encoded - prepared,
            "router": planned - encoded,
            "decoder": decoded - planned,
            "head": end - decoded,
        }
        latency_ms = {name: seconds * 1e3 for name, seconds in stages.items()} | {"step": (end - start) * 1e3}
        gates, executed = np.array(plan.gates, dtype=np.float32), np.array(plan.executed)
        return StepResult(chunk, gates, executed, latency_ms, planner.budget)

    @torch.inference_mode()
    def locate(self, observation: Observation) -> np.ndarray:
        """(20,) where the policy believes the objects are, the block it is about and where that goes, as
        `aux_targets` has them
        [m in `base_link`]."""
        seen, device = self.seen(observation), self._device
        images = {name: to_input(torch.from_numpy(view)[None].to(device)) for name, view in seen.images.items()}
        ids, state = torch.tensor([seen.ids], device=device), torch.from_numpy(seen.state)[None].to(device)
        tokens, _, looks = self._model.embed_inputs(images, ids, state, torch.ones(1, device=device))
        recent = torch.from_numpy(seen.recent)[None].to(device)
        plan = self._planner(lambda: self._model.router.evidence(tokens, recent=recent)[0].cpu().numpy())
        hidden = self._model.decoder(tokens, None, plan.executed)[:, -1]  # (1, D)
        prediction = self._model.answer(hidden, looks)
        places = torch.cat([prediction.scene[0], prediction.focus[0]]) / METRES_TO_UNITS
        return places.float().cpu().numpy()

    def seen(self, observation: Observation) -> Seen:
        """The observation as an engine takes it. Raises ContractError if a camera of the contract is missing."""
        images = {}
        for camera in self.contract.cameras:
            if camera.name not in observation.images:
                raise ContractError(
                    f"{self.checkpoint_id} needs camera {camera.name}; "
                    f"the observation has {', '.join(observation.images) or 'none'}."
                )
            images[camera.name] = policy_view(observation.images[camera.name], camera)
        state = state_vector(observation.tcp_commanded, observation.gripper_measured)
        return Seen(images, self._ids(observation.instruction), state, self._recent.before(observation))

    def _chunk(self, answer: np.ndarray, observation: Observation) -> Chunk:
        """answer: (K, 7) as `Engine.act` gives it."""
        space = self.contract.action
        actions = answer * self._span + self._offset  # (K, 7) float64
        actions[:, GRIPPER] = answer[:, GRIPPER] > 0
        _limit_norms(actions, (space.translation_limit_m, space.rotation_limit_rad))
        return Chunk(
            actions, space.period_s, space.execute, observation.stamp_s, observation.instruction, self.checkpoint_id
        )


def _limit_norms(actions: np.ndarray, limits: tuple[float, float]) -> None:
    """Shorten translations and rotations of (K, 7) beyond their limits, in place: a prediction may exceed what the
    contract promises by a little."""
    vectors = actions[:, :GRIPPER].reshape(-1, 2, 3)
    norms = np.sqrt(np.einsum("kij,kij->ki", vectors, vectors))  # (K, 2)
    if (norms > limits).any():
        vectors = vectors * np.minimum(1.0, limits / np.maximum(norms, 1e-12))[..., None]
        actions[:, :GRIPPER] = vectors.reshape(-1, GRIPPER)
