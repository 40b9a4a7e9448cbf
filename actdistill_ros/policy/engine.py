"""What computes a step: torch as the model is written, or onnxruntime with the same weights; for any plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.policy.captured import Capture, CapturedRuns
from actdistill_ros.policy.model import Policy

INSTRUCTIONS = 64  # how many are kept read


@dataclass(frozen=True)
class Seen:
    """One observation, preprocessed. images: camera name -> (S, S, 3) uint8; ids: the instruction's words;
    state: (10,) float32; recent: (N, 8) float32 what was commanded before, see `recent`."""

    images: Mapping[str, np.ndarray]
    ids: tuple[int, ...]
    state: np.ndarray
    recent: np.ndarray


class Engine(Protocol):
    """name: what computes. One step at a time and thread; results of two engines agree within rounding."""

    name: str

    def encode(self, seen: Seen) -> Any:
        """What the decoder is given, as `evidence` and `decode` take it. What depends on the instruction alone is
        computed once for each instruction."""

    def evidence(self, encoded: Any) -> np.ndarray:
        """What speaks for each layer, (L,) float32, of a model that has a router."""

    def decode(self, encoded: Any, executed: Sequence[bool]) -> Any:
        """What the executed layers make of it, as `act` takes it."""

    def act(self, hidden: Any) -> np.ndarray:
        """(K, A) float32: six normalised deltas, then the logit of an open gripper."""


class TorchEngine:
    """The model's own modules, on any device; what the other engines are compared with."""

    name = "torch"

    def __init__(self, model: Policy, device: str = "cpu", capture: Capture | None = None) -> None:
        """capture: of frequent plans; None for none."""
        self._model, self._device = model, device
        self._run = CapturedRuns(self._answer, capture) if capture else self._answer
        self._known = torch.ones(1, device=device)
        self._tell = lru_cache(INSTRUCTIONS)(lambda ids: model.tell(torch.tensor([ids], device=device)))

    def encode(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Tokens (1, N, D) and, for the router, what was commanded before, (1, R, A + 1)."""
        images = {name: to_input(torch.from_numpy(view)[None].to(self._device)) for name, view in seen.images.items()}
        state = torch.from_numpy(seen.state)[None].to(self._device)
        tokens, _, _ = self._model.look(images, self._tell(seen.ids), state, self._known)
        self._wait()
        return tokens, torch.from_numpy(seen.recent)[None].to(self._device)

    def evidence(self, encoded: tuple[Tensor, Tensor]) -> np.ndarray:
        tokens, recent = encoded
        return self._model.router.evidence(tokens, recent=recent)[0].cpu().numpy()

    def decode(self, encoded: tuple[Tensor, Tensor], executed: Sequence[bool]) -> Tensor:
        hidden = self._run(encoded[0], executed)  # (1, D)
        self._wait()
        return hidden

    def _answer(self, tokens: Tensor, executed: Sequence[bool]) -> Tensor:
        return self._model.decoder(tokens, None, executed)[:, -1]  # (1, D); one sentence is never padded

    def act(self, hidden: Tensor) -> np.ndarray:
        motion, gripper = self._model.act(hidden)
        return torch.cat([motion, gripper[..., None]], dim=-1)[0].float().cpu().numpy()

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)


def best(model: Policy, device: str) -> Engine:
    """The fastest that is installed and computes on this device; docs/results/engines.md has the comparison."""
    if device == "cpu":
        try:
            from actdistill_ros.policy.onnx_engine import OnnxEngine
        except ImportError:  # onnx or onnxruntime is not installed: slower, the same actions
            return TorchEngine(model, device)
        return OnnxEngine(model)
    return TorchEngine(model, device)


def to_input(images: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32 in [−1, 1]; the channels stay last in memory, as convolutions like
    it."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
