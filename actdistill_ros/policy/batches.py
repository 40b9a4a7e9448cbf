"""Training samples from data sets in memory; which sample comes when depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.contract import Statistics
from actdistill_ros.contract.preprocess import normalise
from actdistill_ros.contract.seeds import EVALUATION_SEED, of_evaluation
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.layout import ACTION
from actdistill_ros.data.reader import Dataset
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.engine import to_input
from actdistill_ros.policy.recent import Slots, hide, recorded
from actdistill_ros.policy.tokenizer import UNKNOWN, Tokenizer

HELD_OUT_EVERY = 40  # every 40th episode is for validation
RECENT_DROPOUT = 0.2  # share of the training samples whose recent actions are hidden, in part or all
PLACES = PolicyConfig(()).scene_dim + PolicyConfig(()).focus_dim


@dataclass(frozen=True)
class Batch:
    """images: name -> (B, 3, S, S); instruction: (B, T) ids; state: (B, 10); pose_known: (B,); chunk: (B, K, 7)
    normalised; aux: (B, A) [m], NaN where the data do not tell the places of things; recent: (B, N, 8) what was
    commanded before, see `recent`."""

    images: dict[str, Tensor]
    instruction: Tensor
    state: Tensor
    pose_known: Tensor
    chunk: Tensor
    aux: Tensor
    recent: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Itself where it is there already."""
        images = {name: image.to(device) for name, image in self.images.items()}
        rest = (self.instruction, self.state, self.pose_known, self.chunk, self.aux, self.recent)
        return Batch(images, *(x.to(device) for x in rest))


class Samples:
    """All frames of some data sets, split by episode into training and validation."""

    def __init__(self, folders: Sequence[Path], cameras: Sequence[str], size: int) -> None:
        """Raises DataError if a data set is missing, broken, lacks a camera or the expert's chunks, or if their rates
        or robots differ."""
        sets = [Dataset.open(folder) for folder in folders]
        for one in sets:
            check_seeds(one)
        self.fps, self.robot = (same(sets, name, [d.info[name] for d in sets]) for name in ("fps", "robot_type"))
        shapes = {name: [d.camera_shape(name) for d in sets] for name in cameras}
        self.shapes = {name: same(sets, f"the size of {name}", each) for name, each in shapes.items()}
        self.state = np.concatenate([d.columns("observation.state") for d in sets])
        self.action = np.concatenate([d.columns(ACTION) for d in sets])
        self.chunk = np.concatenate([d.columns("chunk") for d in sets])
        self.aux = np.concatenate([_places(d) for d in sets])
        # Last of what is read: decoding takes minutes, and a column that is missing should be named before.
        self.images = {name: [d.frames(name, size) for d in sets] for name in cameras}
        self.instructions = [text for d in sets for text in d.instructions()]
        lengths = [row.stop - row.start for d in sets for row in d.episodes]
        self.episode = np.repeat(np.arange(len(lengths)), lengths)
        self.first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._offsets = np.cumsum([0] + [len(d) for d in sets])
        held_out = np.arange(len(lengths)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.training = np.flatnonzero(~held_out[self.episode])
        self.validation = np.flatnonzero(held_out[self.episode])
        self.validation_first = self.first[held_out]

    def frames(self, camera: str, indices: np.ndarray) -> Tensor:
        """(B, S, S, 3) uint8."""
        which = np.searchsorted(self._offsets, indices, side="right") - 1
        parts = self.images[camera]
        return torch.from_numpy(np.stack([parts[w][i - self._offsets[w]] for w, i in zip(which, indices, strict=True)]))


def cameras_of(folders: Sequence[Path]) -> tuple[str, ...]:
    """The cameras that every one of the data sets has, in the first one's order; DataError if there is none."""
    sets = [Dataset.open(folder) for folder in folders]
    common = tuple(name for name in sets[0].cameras if all(name in d.cameras for d in sets))
    if not common:
        found = "; ".join(f"{d.folder}: {', '.join(d.cameras) or 'none'}" for d in sets)
        raise DataError(
            f"the data sets have no camera in common ({found}); give those that were seen by the same ones."
        )
    return common


def same(sets: Sequence[Dataset], what: str, values: Sequence[object]) -> object:
    """What all of the data sets have. Raises DataError, which names each one's value, if they differ."""
    if len(set(values)) > 1:
        found = ", ".join(f"{d.folder} {value}" for d, value in zip(sets, values, strict=True))
        raise DataError(f"the data sets differ in {what}: {found}; train on those that have the same.")
    return values[0]


def _places(data: Dataset) -> np.ndarray:
    """(N, A) places of things [m]; only a simulator knows them, other data sets have NaN."""
    if "aux" in data.info["features"]:
        return data.columns("aux")
    return np.full((len(data), PLACES), np.nan, dtype=np.float32)


class Batcher:
    """Batches of one model: its vocabulary, statistics and, for training, what is varied."""

    def __init__(
        self, samples: Samples, tokenizer: Tokenizer, statistics: Statistics, pose_dropout: float = 0.3
    ) -> None:
        self._samples, self._pose_dropout = samples, pose_dropout
        self._chunk = normalise(samples.chunk.astype(np.float64), statistics).astype(np.float32)
        self._slots = Slots(statistics)(samples.action)  # (F, 8)
        self._ids = [tokenizer.encode(text) for text in samples.instructions]

    def train(self, seed: int, step: int, size: int, share: slice = slice(None), recent: int = 0) -> Batch:
        """The step's batch, or the rows of it that `share` names; a function of its arguments, so that a resumed run
        sees what the first would have seen, and shares together are the batch. recent: how many of the actions
        commanded before each sample come with it, some of them hidden; the rest of the batch does not depend on
        that."""
        pool = self._samples.training
        per_epoch = max(1, len(pool) // size)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(pool)
        indices = order[place * size : (place + 1) * size]
        rng = np.random.default_rng([seed, 1, step])
        batch = self.at(indices, word_dropout=0.02, rng=rng, share=share, recent=recent)
        known = torch.from_numpy((rng.random(len(indices)) >= self._pose_dropout).astype(np.float32))[share]
        images = {name: _vary(image, len(indices), rng, share) for name, image in batch.images.items()}
        if recent:
            told, hiding = self._recent(indices, recent), np.random.default_rng([seed, 3, step])
            batch = replace(batch, recent=torch.from_numpy(hide(told, hiding, RECENT_DROPOUT)[share]))
        return replace(batch, images=images, pose_known=known)

    def at(
        self,
        indices: np.ndarray,
        word_dropout: float = 0.0,
        rng: np.random.Generator | None = None,
        share: slice = slice(None),
        recent: int = 0,
    ) -> Batch:
        """Samples as they are recorded; sentences are padded alike, and words left out alike, whatever the share."""
        s = self._samples
        texts = [self._ids[e] for e in s.episode[indices]]
        ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        if rng is not None:
            ids[(rng.random(ids.shape) < word_dropout) & (ids != 0)] = UNKNOWN
        indices = indices[share]
        return Batch(
            {name: to_input(s.frames(name, indices)) for name in s.images},
            torch.from_numpy(ids[share]),
            torch.from_numpy(s.state[indices]),
            torch.ones(len(indices)),
            torch.from_numpy(self._chunk[indices]),
            torch.from_numpy(s.aux[indices]),
            torch.from_numpy(self._recent(indices, recent)),
        )

    def _recent(self, indices: np.ndarray, count: int) -> np.ndarray:
        first = self._samples.first[self._samples.episode[indices]]  # (B,)
        return recorded(self._slots, first, indices, count)  # (B, N, 8)


def check_seeds(data: Dataset) -> None:
    """What is learnt from must never be judged by: raises DataError if the data have evaluation seeds."""
    found = of_evaluation(row.seed for row in data.episodes)
    if found:
        raise DataError(
            f"{data.folder} has {len(found)} of {len(data.episodes)} episodes with evaluation seeds ({found[0]} … "
            f"{found[-1]}); seeds from {EVALUATION_SEED} on are for judging only. Record it again with a lower --seed."
        )


def _vary(images: Tensor, n: int, rng: np.random.Generator, share: slice) -> Tensor:
    """Brightness, contrast and colour of the share's images of a batch of n; never a shift: with a fixed camera a shift
    is a wrong label."""
    gain = rng.uniform(0.85, 1.15, (n, 3, 1, 1)) * rng.uniform(0.85, 1.15, (n, 1, 1, 1))
    shift = torch.from_numpy(rng.uniform(-0.12, 0.12, (n, 1, 1, 1))[share]).float()
    return (images * torch.from_numpy(gain[share]).float() + shift).clamp(-1, 1)
