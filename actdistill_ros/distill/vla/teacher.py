"""A frozen OpenVLA or CogACT: what its decoder is given, what each layer holds, what its head is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.chunk import ACTION_DIM
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.recompute import autocast, directly, recomputed
from actdistill_ros.distill.teacher import DTYPES
from actdistill_ros.distill.vla import samples
from actdistill_ros.distill.vla.heads import ActionHead, NoiseHead, WordHead
from actdistill_ros.distill.vla.samples import VlaBatch, VlaSamples
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, deployment, layout
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.cogact import CogACT
from actdistill_ros.policy.vla.deployment import Deployment
from actdistill_ros.policy.vla.openvla import Prismatic

HELD_OUT_BATCH = 16


@dataclass(frozen=True)
class Shape:
    """layers, width: of the decoder; chunk, action_dim: of what it says; patches: image tokens."""

    layers: int
    width: int
    chunk: int
    action_dim: int
    patches: int


@dataclass(frozen=True)
class Given:
    """What both decoders read. tokens: (B, N, D) float32, prompts, then action words where the head says words, then
    padding; present: (B, N) bool, the prompts alone: action words would tell the answer; last: (B,) place of each
    prompt's last word."""

    tokens: Tensor
    present: Tensor
    last: Tensor


class VlaTeacher:
    """All layers run, without gradients, computed anew for each batch; a `probing.Probed`.

    Weights and matrix products are of one type; the residual stream is float32, as router and heads are.
    """

    def __init__(
        self,
        folder: Path,
        data: list[Path],
        dtype: str | None,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        checkpointing: bool = False,
    ) -> None:
        """dtype: None for what the teacher is deployed with. Raises DistillError if it is a student or trained in
        another type, ContractError if it is no whole checkpoint, DataError if the data do not fit it."""
        told, dtype = deployed(folder, dtype)
        samples.check(data, told)  # before billions of weights are read
        self.processes, self.device = processes, processes.device
        self.run = recomputed(self.device) if checkpointing else directly
        loaded = load(folder, told, dtype, str(self.device))
        self.identity, self.patches = loaded.identity, loaded.model.vlm.shape.dino.patches
        self.vlm: Prismatic = loaded.model.vlm
        self.head: ActionHead = head_of(loaded)
        self.samples = VlaSamples.open(data, loaded, told)
        self.parameters = sum(p.numel() for p in loaded.model.parameters())
        self.dtype = DTYPES[dtype]
        chunk = self.samples.chunk
        decoder = self.vlm.shape.decoder
        self.shape = Shape(decoder.layers, decoder.width, chunk, ACTION_DIM, self.patches)
        self.settings = {"teacher": self.identity.partition("@")[2], "dtype": dtype, **self.samples.settings}

    def batch(self, seed: int, step: int, size: int) -> VlaBatch:
        """This process's share of the step's batch."""
        return self.samples.train(seed, step, size, self.processes.share(size)).to(self.device)

    def held_out(self, limit: int) -> Iterator[VlaBatch]:
        """Up to `limit` samples, evenly spread over the episodes that nothing is trained on."""
        pool = self.samples.validation
        return self.batches(pool[np.linspace(0, len(pool) - 1, min(limit, len(pool))).astype(int)])

    def batches(self, indices: np.ndarray) -> Iterator[VlaBatch]:
        """The samples in batches of at most `HELD_OUT_BATCH`."""
        for part in np.array_split(indices, -(-len(indices) // HELD_OUT_BATCH)):
            yield self.samples.at(part).to(self.device)

    def target(self, batch: VlaBatch) -> Tensor:
        """The actions (B, K, 7) that heads learn to say."""
        return batch.actions

    def precision(self) -> AbstractContextManager:
        return autocast(self.dtype, self.device)

    @torch.no_grad()
    def give(self, batch: VlaBatch) -> Given:
        weight = self.vlm.embed.weight
        ids = said(batch.ids, batch.length, batch.words[:, : self.head.words])  # (B, T + words)
        tokens = self.vlm.embed_inputs(batch.pixels.to(weight.dtype), ids).float()  # (B, P + T + words, D)
        last = batch.length + self.patches - 1  # (B,)
        present = torch.arange(tokens.shape[1], device=last.device) <= last[:, None]  # (B, N)
        return Given(tokens, present, last)

    @torch.no_grad()
    def trace(self, given: Given) -> list[Tensor]:
        """The residual stream after each layer, L of (B, N, D). Padding stands after all that is read, where attention
        never looks, so nothing has to be masked."""
        with self.precision():
            return self.vlm.decoder.trace(given.tokens, None)

    @torch.no_grad()
    def features(self, stream: Tensor, given: Given) -> Tensor:
        """What the head is given of the last layer's residual stream (B, N, D)."""
        with self.precision():
            return self.head.features(stream, self.vlm.decoder.norm, given.last)

    @torch.no_grad()
    def features_under(self, plan: list[bool] | None, given: Given) -> Tensor:
        """What the head is given if only some layers run."""
        with self.precision():
            normed = self.vlm.decoder(given.tokens, None, plan)  # (B, N, D)
            return self.head.features(normed, torch.nn.Identity(), given.last)


def said(ids: Tensor, length: Tensor, words: Tensor) -> Tensor:
    """Prompts (B, T) of `length` (B,), each followed at once by its words (B, W), padded at the end; (B, T + W)."""
    count = words.shape[1]
    longer = torch.cat([ids, ids.new_zeros(len(ids), count)], dim=1)  # (B, T + W)
    places = length[:, None] + torch.arange(count, device=ids.device)  # (B, W)
    return longer.scatter(1, places, words)


def deployed(folder: Path, dtype: str | None) -> tuple[Deployment, str]:
    """How the teacher is deployed and the type to train in. Raises DistillError if it does not run all its layers."""
    told = deployment.read(folder)
    if (folder / layout.ROUTER).exists():
        raise DistillError(f"{folder} has a router, so it is a student; expected a teacher that runs all layers.")
    if told.layers is not None:
        raise DistillError(
            f"{folder / deployment.FILE} leaves layers out; expected a teacher that runs all of them. Remove layers."
        )
    dtype = dtype or told.dtype
    if dtype not in DTYPES:
        raise DistillError(f"students are trained in {' or '.join(DTYPES)}, not {dtype}; give --dtype.")
    return told, dtype


def load(folder: Path, told: Deployment, dtype: str, device: str) -> VlaCheckpoint:
    if cogact_checkpoint.is_cogact(layout.read(folder)):
        return cogact_checkpoint.load(folder, told.statistics, dtype, device, crop_area=told.crop_area)
    return checkpoint.load(folder, told.statistics, dtype, device, told.crop_area)


def head_of(loaded: VlaCheckpoint) -> ActionHead:
    if isinstance(loaded.model, CogACT):
        return NoiseHead(loaded.model)
    return WordHead(loaded.model, loaded.bins)
