"""Fills a model on the meta device tensor by tensor, after every name and shape was checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy import memory
from actdistill_ros.policy.vla import quantised
from actdistill_ros.policy.vla.openvla import PrismaticShape
from actdistill_ros.policy.vla.sources import TensorSource
from actdistill_ros.policy.vla.vision import stored_shapes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ROOM = 1.05  # weights, and the step's activations beside them
_TOWERS = {"vlm.vision.dino.": "vision_backbone.featurizer.", "vlm.vision.siglip.": "vision_backbone.fused_featurizer."}
_STORED = _TOWERS | {  # this package's names -> those of the Hugging Face layout
    "vlm.projector.": "projector.",
    "vlm.embed.": "language_model.model.embed_tokens.",
    "vlm.decoder.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
_COMPUTED = "rotary_emb.inv_freq"  # older Llamas stored a table that every Llama computes
_NAMED_AT_MOST = 8


@dataclass(frozen=True)
class Held:
    """How weights are held: in `dtype`, the linear layers of the decoder as `linear` if that is not None."""

    name: str
    dtype: torch.dtype
    linear: type[quantised.Int8Linear | quantised.Int4Linear] | None = None

    def is_linear(self, parameter: str) -> bool:
        """Whether a parameter of this name is held as `linear`. All of a decoder layer's but its norms are."""
        return self.linear is not None and ".decoder.layers." in f".{parameter}" and "proj.weight" in parameter

    def nbytes(self, parameter: str, count: int) -> float:
        """Memory of so many of its numbers."""
        return count * (self.linear.BITS / 8 if self.is_linear(parameter) else self.dtype.itemsize)


def held_as(name: str) -> Held:
    """Raises ContractError if this is not one of the types that weights may be held in."""
    if name in DTYPES:
        return Held(name, DTYPES[name])
    if name in quantised.KINDS:
        return Held(name, torch.bfloat16, quantised.KINDS[name])
    raise ContractError(f"weights may be held in {', '.join((*DTYPES, *quantised.KINDS))}; got {name!r}.")


def stored_name(ours: str) -> str:
    """A parameter's name in the Hugging Face layout."""
    for prefix, stored in _STORED.items():
        if ours.startswith(prefix):
            return stored + ours.removeprefix(prefix)
    raise KeyError(ours)


def check(model: nn.Module, shape: PrismaticShape, source: TensorSource) -> None:
    """Raises ContractError naming what is missing, misshaped or no part of the model, each with its expected shape."""
    needed = {stored_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    spare = {
        f"{prefix}{name}": size
        for prefix, tower in zip(_TOWERS.values(), (shape.dino, shape.siglip), strict=True)
        for name, size in stored_shapes(tower)[1].items()
    }
    problems(needed, spare, source.shapes, source.where)


def problems(needed: Mapping[str, tuple], spare: Mapping[str, tuple], found: Mapping[str, tuple], where: str) -> None:
    """needed: must be there; spare: may be there. Raises ContractError if `found` is anything else."""
    known = {**spare, **needed}
    wrong = [f"{n} is missing, expected {s}" for n, s in needed.items() if n not in found]
    wrong += [f"{n} is {found[n]}, expected {s}" for n, s in known.items() if n in found and found[n] != s]
    wrong += [
        f"{n} {s} is no part of this model" for n, s in found.items() if n not in known and not n.endswith(_COMPUTED)
    ]
    if wrong:
        more = len(wrong) - _NAMED_AT_MOST
        listed = "; ".join(wrong[:_NAMED_AT_MOST]) + (f"; and {more} more" if more > 0 else "")
        raise ContractError(f"{where}: {listed}. The weights are of another model than config.json, or incomplete.")


def check_memory(model: nn.Module, held: Held, device: str, available: int | None = None) -> None:
    """available: free bytes; None asks the device. Raises ContractError if the weights do not fit, or cannot be held
    so on that device."""
    if held.linear:
        shapes = {tuple(p.shape) for name, p in model.named_parameters() if held.is_linear(name)}
        quantised.check(held.name, shapes, device)
    wanted = int(sum(held.nbytes(name, p.numel()) for name, p in model.named_parameters()) * ROOM)
    free = free_bytes(device) if available is None else available
    if wanted > free:
        raise ContractError(
            f"the weights take {wanted / 2**30:.1f} GiB as {held.name}, {device} has {free / 2**30:.1f} GiB free. Stop "
            "what else uses it, take bfloat16 or int8, or a larger machine."
        )


def fill(model: nn.Module, source: TensorSource, held: Held, device: str) -> None:
    """Give every parameter its memory and its numbers. At no time is more than one part of a tensor held beside them,
    or one whole tensor where the type is int4.

    Raises ContractError if a number cannot be held in that type, or is not finite.
    """
    for name, parameter in list(model.named_parameters()):
        stored, shape = stored_name(name), tuple(parameter.shape)
        owner, _, leaf = name.rpartition(".")
        if held.is_linear(name):
            linear = held.linear.of(_finite_parts(source, stored), shape, held.dtype, device)
            model.set_submodule(owner, linear)
            continue
        value = torch.empty(shape, dtype=held.dtype, device=device)
        for rows, part in source.parts(stored):
            value[rows].copy_(part)
            del part  # its file cannot be closed while it is held
            _check_finite(value[rows], stored, source.where)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def _finite_parts(source: TensorSource, stored: str) -> Iterator[tuple[slice, Tensor]]:
    for rows, part in source.parts(stored):
        _check_finite(part, stored, source.where)
        yield rows, part


def _check_finite(part: Tensor, name: str, where: str) -> None:
    # Both ends tell of every NaN and infinity, and, unlike isfinite or a sum in float32, take no memory of their own.
    if not all(map(torch.isfinite, torch.aminmax(part))):
        raise ContractError(
            f"{where}: {name} is not finite as {str(part.dtype).removeprefix('torch.')}; the file is damaged, or the "
            "type too narrow: take bfloat16."
        )


def free_bytes(device: str) -> int:
    """Memory that may still be taken on the device [bytes]."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return memory.available()
