"""A published VLA with all that it takes to act: weights, words, pixels and units; OpenVLA's is read here, refused as a
whole or loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.policy.vla import images, layout, statistics, weights
from actdistill_ros.policy.vla.cogact import CogACT
from actdistill_ros.policy.vla.images import VisionInput
from actdistill_ros.policy.vla.layout import Layout
from actdistill_ros.policy.vla.openvla import OpenVLA, unfilled
from actdistill_ros.policy.vla.sources import PrismaticFile, ShardedSafetensors, TensorSource
from actdistill_ros.policy.vla.tokens import TOKENIZER, ActionBins, PromptReader

ACTION_DIM = 7
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class VlaCheckpoint:
    """bins: the words that are actions; None for a model whose actions are not words. statistics: of all datasets that
    it was trained on; statistics_key: the one that its actions are read with."""

    model: OpenVLA | CogACT
    reader: PromptReader
    vision: VisionInput
    bins: ActionBins | None
    statistics: Mapping[str, Statistics]
    statistics_key: str
    identity: str

    @property
    def active_statistics(self) -> Statistics:
        return self.statistics[self.statistics_key]


def load(
    path: Path,
    statistics_key: str | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    crop_area: float = 1.0,
    tokenizer: Path | None = None,
    available: int | None = None,
) -> VlaCheckpoint:
    """path: a Hugging Face folder, a Prismatic run's folder or its `.pt`. tokenizer: another tokenizer.json than the
    folder's. available: free memory [bytes]; None asks the device.

    The statistics, the words, every tensor's name and shape, and the memory are checked before the first weight is
    read. Raises ContractError for anything that is not right.
    """
    made = layout.read(path)
    held, source = weights.held_as(dtype), open_source(made)
    beside = read_beside(made, source, statistics_key, crop_area, tokenizer)
    model = unfilled(made.shape, device)
    weights.check(model, made.shape, source)
    weights.check_memory(model, held, device, available)
    weights.fill(model, source, held, device)
    return VlaCheckpoint(model=model, bins=ActionBins(made.vocabulary, made.bins), **beside)


def read_beside(
    made: Layout, source: TensorSource, statistics_key: str | None, crop_area: float, tokenizer: Path | None
) -> dict:
    """What a checkpoint has beside its model: `VlaCheckpoint`'s other fields but `bins`. See `load` for the arguments
    and what is raised."""
    known = statistics.read(made.folder, made.config)
    key = statistics.choose(known, statistics_key, made.folder)
    check_dimensions(known[key], key, made.folder)
    return {
        "reader": PromptReader.load(tokenizer or made.folder / TOKENIZER, made.vocabulary, made.shape.rows),
        "vision": images.read(made.folder, made.shape.image_size, crop_area),
        "statistics": known,
        "statistics_key": key,
        "identity": identity(made.folder, source),
    }


def open_source(made: Layout) -> TensorSource:
    return PrismaticFile(made.prismatic) if made.prismatic else ShardedSafetensors(made.folder)


def check_dimensions(found: Statistics, key: str, folder: Path) -> None:
    """Raises ContractError if these are another robot's actions."""
    if len(found.q01) != ACTION_DIM:
        raise ContractError(
            f"{folder}: actions of {key!r} have {len(found.q01)} dimensions, this arm takes {ACTION_DIM} (three of "
            "translation, three of rotation, gripper). Choose statistics of a robot with one arm."
        )


def identity(folder: Path, source: TensorSource) -> str:
    """Short name of these weights and of the router beside them: the folder's, and a hash of the files' sizes and of
    samples spread over them. Reading fifteen gigabytes for a name would take longer than loading them."""
    digest = hashlib.sha256()
    router = [folder / name for name in (layout.ROUTER, layout.ROUTER_CONFIG) if (folder / name).is_file()]
    for path in (*source.files, *router):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(size * i // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return f"{folder.resolve().name}@{digest.hexdigest()[:10]}"
