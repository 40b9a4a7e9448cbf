"""The frozen teacher: what it is given, what each of its layers holds, what it answers; nothing here is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.contract import Contract
from actdistill_ros.data.reader import Dataset
from actdistill_ros.distill import weights
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.recompute import autocast, directly, recomputed
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.batches import Batch, Batcher, Samples
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.model import Policy, Prediction
from actdistill_ros.policy.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Given:
    """What both decoders read: tokens (B, N, D), present (B, N) bool, seen (B, E) of the encoders; and for the
    student's router alone what was commanded before, recent (B, R, A + 1)."""

    tokens: Tensor
    present: Tensor
    seen: Tensor
    recent: Tensor


class Teacher:
    """A checkpoint in eval mode, all layers run, without gradients; computed anew for each batch, so that nothing can
    belong to another sample or another teacher.

    dtype, device: of the matrix products. processes, checkpointing: how it is computed, which changes no curve.
    """

    def __init__(
        self,
        folder: Path,
        data: list[Path],
        dtype: str,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        checkpointing: bool = False,
    ) -> None:
        """Raises DistillError if the data do not fit the teacher, ContractError if it is no whole checkpoint."""
        self.processes, self.device = processes, processes.device
        self.run = recomputed(self.device) if checkpointing else directly
        self.model, self.contract = checkpoint.load(folder, str(self.device))
        if self.model.router is not None:
            raise DistillError(f"{folder} has a router, so it is a student; expected a teacher that runs all layers.")
        self.model.requires_grad_(False)
        weights.split(self.model.decoder.layers, processes)
        self.identity = checkpoint.identity(folder)
        for one in data:
            _check_fit(folder, self.contract, one)
        config = self.model.config
        self.samples = Samples(data, config.cameras, config.image_size)
        _check_enough(self.samples)
        self.batcher = Batcher(self.samples, Tokenizer(config.vocabulary), self.contract.active_statistics)
        self.dtype = DTYPES[dtype]
        # Teacher by content, data by name: what a resumed run must have in common with the one that was killed.
        self.settings = {"teacher": self.identity.partition("@")[2], "data": [str(one) for one in data], "dtype": dtype}

    def batch(self, seed: int, step: int, size: int, recent: int = 0) -> Batch:
        """This process's share of the step's batch, with so many recent actions."""
        return self.batcher.train(seed, step, size, self.processes.share(size), recent).to(self.device)

    @property
    def shape(self) -> PolicyConfig:
        """Of what heads read and say; see `probing.Shape`."""
        return self.model.config

    def target(self, batch: Batch) -> Tensor:
        """The chunks (B, K, A) that heads learn to say."""
        return batch.chunk

    def precision(self) -> AbstractContextManager:
        return autocast(self.dtype, self.device)

    @torch.no_grad()
    def give(self, batch: Batch) -> Given:
        with self.precision():
            found = (x.float() if x.dtype != torch.bool else x for x in embed(self.model, batch))
            return Given(*found, batch.recent)

    @torch.no_grad()
    def trace(self, given: Given) -> list[Tensor]:
        """The residual stream after each layer, L of (B, N, D)."""
        with self.precision():
            return self.model.decoder.trace(given.tokens, given.present)

    @torch.no_grad()
    def answer(self, hidden: list[Tensor], given: Given) -> Prediction:
        """What the policy says from the last layer of `trace`."""
        with self.precision():
            return answer(self.model, hidden, given)

    def held_out(self, limit: int, recent: int = 0) -> Iterator[Batch]:
        """Up to `limit` samples, evenly spread over the episodes that nothing is trained on, in batches of 64, with so
        many recent actions."""
        pool = self.samples.validation
        chosen = pool[np.linspace(0, len(pool) - 1, min(limit, len(pool))).astype(int)]
        for part in np.array_split(chosen, max(1, len(chosen) // 64)):
            yield self.batcher.at(part, recent=recent).to(self.device)


def embed(model: Policy, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return model.embed_inputs(batch.images, batch.instruction, batch.state, batch.pose_known)


def answer(model: Policy, hidden: list[Tensor], given: Given) -> Prediction:
    """hidden: L of (B, N, D), of which the last token of the last layer counts."""
    return model.answer(model.decoder.norm(hidden[-1][:, -1]), given.seen).float()


def _check_fit(folder: Path, contract: Contract, data: Path) -> None:
    found = Dataset.open(data)
    lacking = [camera.name for camera in contract.cameras if camera.name not in found.cameras]
    if lacking:
        raise DistillError(
            f"{folder} sees through {', '.join(c.name for c in contract.cameras)}; {data} has "
            f"{', '.join(found.cameras) or 'no camera'}. Record it with camera {', '.join(lacking)}."
        )
    features = found.info["features"]
    if "chunk" not in features:
        raise DistillError(
            f"{data} has no column chunk: the expert's next actions. Record it with `actdistill collect`."
        )
    names = features["action"].get("names") or ()
    if tuple(names) != contract.action.names:
        raise DistillError(
            f"{data} has actions {', '.join(names) or 'without names'}, but {folder} was made for "
            f"{', '.join(contract.action.names)}; convert them, or use data of its own kind."
        )
    expected = {
        "frames per second": (1 / contract.action.period_s, found.info["fps"]),
        "chunk": ((contract.action.chunk, len(contract.action.names)), tuple(features["chunk"]["shape"])),
        "state": (len(contract.state), features["observation.state"]["shape"][-1]),
    }
    for what, (wanted, there) in expected.items():
        if not np.allclose(wanted, there):
            raise DistillError(f"{data}: {what} {there}, but {folder} was made for {wanted}; use data of its own kind.")


def _check_enough(samples: Samples) -> None:
    if not len(samples.validation):
        raise DistillError(
            f"{len(samples.instructions)} episodes are too few: every 40th is held out to find thresholds with, and "
            "there is none. Record at least 40."
        )
