"""A CogACT run with all that it takes to act: the vision-language model, the diffusion head, words, pixels and units;
refused as a whole or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.vla import checkpoint, layout, weights
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.cogact import CogACT
from actdistill_ros.policy.vla.dit import SIZES, DiT, DiTShape
from actdistill_ros.policy.vla.layout import Layout
from actdistill_ros.policy.vla.openvla import unfilled
from actdistill_ros.policy.vla.sources import PrismaticFile

HEAD, AVERAGED = "action_model", "ema_diffusion"  # parts of the file beside the vision-language model's
NET = "net."  # what its tensors are named after there


def is_cogact(made: Layout) -> bool:
    """Whether the run's file holds more than a vision-language model. Raises ContractError if it cannot be read."""
    return made.prismatic is not None and bool(PrismaticFile(made.prismatic).others)


def chunk_of(made: Layout) -> int:
    """How many actions its head makes, without reading a weight. Raises ContractError if the head is not a known
    one."""
    return _unfilled_head(PrismaticFile(made.prismatic), made.shape.decoder.width, None).shape.chunk


def load(
    path: Path,
    statistics_key: str | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    head: str | None = None,
    tokenizer: Path | None = None,
    available: int | None = None,
    crop_area: float = 1.0,
) -> VlaCheckpoint:
    """path: a run's folder (config.json, dataset_statistics.json, checkpoints/NAME.pt) or that `.pt`.

    dtype: of the vision-language model. head: the size that it must have, one of `SIZES`; None takes the file's.
    tokenizer: Llama-2's tokenizer.json, which runs do not hold; None looks for it in the folder. available: free
    memory [bytes]; None asks the device. crop_area: see `VisionInput`.

    Statistics, words, every tensor's name and shape, and the memory are checked before the first weight is read.
    Raises ContractError for anything that is not right.
    """
    made = layout.read(path)
    if made.prismatic is None:
        raise ContractError(
            f"{made.folder} has no checkpoints/NAME.pt; CogACT is published as a run with config.json, "
            "dataset_statistics.json and one such file. A folder of safetensors is OpenVLA's."
        )
    held, source = weights.held_as(dtype), PrismaticFile(made.prismatic)
    beside = checkpoint.read_beside(made, source, statistics_key, crop_area, tokenizer)
    network = _unfilled_head(source, made.shape.decoder.width, head)
    speaking = unfilled(made.shape, device)  # the file holds a token head too; it is checked, and left there
    weights.check(speaking, made.shape, source)
    vlm = nn.ModuleDict({"vlm": speaking.vlm})
    _check_memory(vlm, network, held, device, available)
    weights.fill(vlm, source, held, device)
    _fill_head(network, source, device)
    return VlaCheckpoint(model=CogACT(speaking.vlm, network).eval(), bins=None, **beside)


def _unfilled_head(source: PrismaticFile, cognition: int, wanted: str | None) -> DiT:
    """On the meta device. Raises ContractError if the file's head is not one that is known, or not the wanted one."""
    if odd := sorted(source.others.keys() - {HEAD, AVERAGED}):
        raise ContractError(f"{source.where}: part {odd[0]} is no part of a CogACT checkpoint; expected {HEAD}.")
    if HEAD not in source.others:
        raise ContractError(
            f"{source.where} holds no {HEAD}: it is a vision-language model without CogACT's diffusion head. Load it "
            "as OpenVLA, or take a CogACT checkpoint."
        )
    if wanted is not None and wanted not in SIZES:
        raise ContractError(f"no diffusion head is called {wanted!r}; expected one of {', '.join(SIZES)}.")
    found = source.others[HEAD]
    size = wanted or _size_of(found, source.where)
    with torch.device("meta"):
        network = DiT(_shape_of(found, replace(SIZES[size], cognition=cognition), source.where))
    needed = {NET + name: tuple(value.shape) for name, value in network.named_parameters()}
    try:
        weights.problems(needed, {}, found, f"{source.where}: {HEAD} as {size}")
    except ContractError as error:
        hint = f" The head's own size is {_size_of(found, source.where)}." if wanted else ""
        raise ContractError(f"{error}{hint}") from error
    return network


def _size_of(found: Mapping[str, tuple[int, ...]], where: str) -> str:
    """The published size with as many blocks of that width."""
    depth = len({name.split(".")[2] for name in found if name.startswith(f"{NET}blocks.")})
    width = found.get(f"{NET}x_embedder.linear.weight", (0,))[0]
    for size, shape in SIZES.items():
        if width == shape.width or (not width and depth == shape.depth):
            return size  # blocks that are missing, or one too many, are named one by one
    published = ", ".join(f"{name} ({shape.depth} of {shape.width})" for name, shape in SIZES.items())
    raise ContractError(f"{where}: {HEAD} has {depth} blocks of width {width}; the known heads are {published}.")


def _shape_of(found: Mapping[str, tuple[int, ...]], size: DiTShape, where: str) -> DiTShape:
    """With the file's own length of chunk. Raises ContractError if its actions are another robot's."""
    actions = found.get(f"{NET}x_embedder.linear.weight", (0, size.actions))[-1]
    if actions != checkpoint.ACTION_DIM:
        raise ContractError(
            f"{where}: {HEAD} makes actions of {actions} values, this arm takes {checkpoint.ACTION_DIM} (three of "
            "translation, three of rotation, gripper). It was trained for another robot."
        )
    positions = found.get(f"{NET}positional_embedding", (1 + size.chunk,))[0]
    return replace(size, chunk=max(1, positions - 1))


def _check_memory(vlm: nn.Module, head: DiT, held: weights.Held, device: str, available: int | None) -> None:
    free = weights.free_bytes(device) if available is None else available
    beside = sum(p.numel() for p in head.parameters()) * torch.float32.itemsize
    weights.check_memory(vlm, held, device, max(0, free - beside))


def _fill_head(head: DiT, source: PrismaticFile, device: str) -> None:
    for name, parameter in list(head.named_parameters()):
        value = torch.empty(parameter.shape, dtype=torch.float32, device=device)
        for rows, part in source.other_parts(HEAD, NET + name):
            value[rows].copy_(part)
        if not torch.isfinite(value).all():
            raise ContractError(
                f"{source.where}: {HEAD} {NET}{name} is not finite; the file is damaged, copy it again."
            )
        owner, _, leaf = name.rpartition(".")
        setattr(head.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
