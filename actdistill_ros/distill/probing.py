"""Stage 1: what each layer of the frozen teacher says about the action."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from actdistill_ros.distill.graph import HeadConfig, LayerHeads
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.losses import Layers
from actdistill_ros.distill.processes import Processes


class Shown(Protocol):
    """What a decoder is given, and which tokens of it are nodes: present (B, N) bool."""

    @property
    def present(self) -> Tensor: ...


class Shape(Protocol):
    """layers, width: of the decoder; chunk, action_dim: of what a probe says."""

    @property
    def layers(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def chunk(self) -> int: ...

    @property
    def action_dim(self) -> int: ...


class Probed(Protocol):
    """A frozen teacher, whatever its model; see `distill/teacher.py` for each member."""

    processes: Processes
    device: torch.device
    settings: dict
    run: Callable

    @property
    def shape(self) -> Shape: ...

    def batch(self, seed: int, step: int, size: int) -> object: ...

    def target(self, batch: object) -> Tensor: ...

    def give(self, batch: object) -> Shown: ...

    def trace(self, given: object) -> list[Tensor]: ...

    def held_out(self, limit: int) -> Iterator: ...

    def precision(self) -> AbstractContextManager: ...


@dataclass(frozen=True)
class ProbingSettings:
    steps: int = 400
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


class Probing:
    """Trains heads and probes on L_prep = mean_l MSE(â_l, a*), the whole chunk; a `loop.Stage`."""

    def __init__(self, teacher: Probed, heads: HeadConfig, settings: ProbingSettings, name: str = "probing") -> None:
        torch.manual_seed(settings.seed)
        self.teacher, self.config, self._settings = teacher, heads, settings
        self.name, self.steps, self.step = name, settings.steps, 0
        self.heads = make_heads(teacher, heads).to(teacher.device)
        self.optimiser = torch.optim.AdamW(
            self.heads.parameters(), settings.learning_rate, weight_decay=0.01, fused=True
        )
        self.settings = json.dumps({**teacher.settings, **asdict(settings), "heads": asdict(heads)})

    def update(self) -> dict[str, float]:
        batch = self.teacher.batch(self._settings.seed, self.step, self._settings.batch)
        for group in self.optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * (1 - self.step / self.steps)
        given = self.teacher.give(batch)
        chunks = read(self.heads, self.teacher.trace(given), given, self.teacher).chunks
        whole = self.teacher.processes.whole
        loss = layer_errors(whole(chunks, dim=1), whole(self.teacher.target(batch))).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.teacher.processes.add_gradients(self.heads.parameters())
        torch.nn.utils.clip_grad_norm_(self.heads.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return {"probe": loss.item()}

    def state(self) -> dict:
        return {"heads": self.heads.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])

    @torch.no_grad()
    def errors(self, limit: int = 512) -> list[float]:
        """Mean squared error of each layer's chunk on held-out episodes, as a share of the chunks' variance: 1 knows
        nothing but the average, 0 is the expert."""
        found, chunks = [], []
        for batch in self.teacher.held_out(limit):
            given = self.teacher.give(batch)
            said = read(self.heads, self.teacher.trace(given), given, self.teacher).chunks
            chunks.append(self.teacher.target(batch))
            found.append(layer_errors(said, chunks[-1]) * len(chunks[-1]))
        truth = torch.cat(chunks)  # (S, K, A)
        error = torch.stack(found).sum(0) / len(truth)  # (L,)
        return (error / truth.var(0, correction=0).mean().clamp(min=1e-8)).tolist()


def make_heads(teacher: Probed, config: HeadConfig) -> LayerHeads:
    shape = teacher.shape
    if config.bottleneck % config.attention_heads:
        raise DistillError(
            f"a bottleneck of {config.bottleneck} cannot be shared by {config.attention_heads} attention heads"
        )
    return LayerHeads(shape.layers, shape.width, shape.chunk, shape.action_dim, config)


def read(heads: LayerHeads, hidden: list[Tensor], given: Shown, teacher: Probed) -> Layers:
    """What the heads say of a trace, L of (B, N, D)."""
    with teacher.precision():
        semantic, chunks = (
            teacher.run(heads, hidden, given.present) if torch.is_grad_enabled() else heads(hidden, given.present)
        )
    return Layers(semantic.float(), chunks.float())


def layer_errors(chunks: Tensor, target: Tensor) -> Tensor:
    """chunks: (L, B, K, A); target: (B, K, A). Mean squared error of each layer, (L,)."""
    return (chunks - target).square().mean((1, 2, 3))
