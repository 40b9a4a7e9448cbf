"""Where a VLA's tensors lie: the shards of a Hugging Face folder, or a Prismatic run's one file. Nothing is unpickled
but tensors, and no more than a part of one tensor is in memory at a time."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actdistill_ros.contract.contract import ContractError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
PART_BYTES = 16 << 20
_REOPEN_SHARE = 50  # a `.pt` is mapped anew after this part of it was read, for the same reason as a shard is

_PARTS = {  # a Prismatic run's parts; their names in the Hugging Face layout, which is the one used here
    "vision_backbone": {
        "dino_featurizer.": "vision_backbone.featurizer.",
        "siglip_featurizer.": "vision_backbone.fused_featurizer.",
    },
    "projector": {"projector.0.": "projector.fc1.", "projector.2.": "projector.fc2.", "projector.4.": "projector.fc3."},
    "llm_backbone": {"llm.": "language_model."},
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file. parts: slices of it along its first axis, in order, in its own type."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """where: for error texts. shapes: of all tensors, by their name in the Hugging Face layout."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def files(self) -> tuple[Path, ...]:
        """What the tensors lie in."""

    def parts(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """One tensor as slices along its first axis, in the order that they lie in."""

    def contents(self) -> dict[str, dict[str, Stored]]:
        """Everything that the files hold under the names that it has there: part of the file -> name -> tensor.

        Raises ContractError if a tensor is of a type that is none of `DTYPES`.
        """

    def place(self, name: str) -> tuple[str, str]:
        """Where a tensor of `shapes` is in `contents`."""


class ShardedSafetensors:
    """A folder as transformers writes it: shards with an index, or one file without."""

    def __init__(self, folder: Path) -> None:
        """Raises ContractError if a shard is missing, truncated or not what the index says."""
        self.where = str(folder)
        self._file_of = _indexed(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            self._read_header(path)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self._file_of.values())))

    def _read_header(self, path: Path) -> None:
        if not path.is_file():
            raise ContractError(f"{path} is missing, but the index names it; copy the checkpoint's shards again.")
        try:
            with safe_open(path, framework="pt") as shard:
                found = {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            size = path.stat().st_size
            raise ContractError(f"{path} is truncated or damaged ({error}; {size} bytes); copy it again.") from error
        promised = {name for name, file in self._file_of.items() if file == path}
        if odd := sorted(promised ^ found.keys()):
            what = "lacks" if odd[0] in promised else "holds, unlike its index,"
            raise ContractError(
                f"{path} {what} {odd[0]} ({len(odd)} such tensors); index and shards are of two copies."
            )
        self.shapes |= found

    def parts(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        for rows in row_slices(self.shapes[name]):
            # Opened for each part: pages of a mapped file count as this process's memory until it is closed.
            with safe_open(self._file_of[name], framework="pt") as shard:
                yield rows, shard.get_slice(name)[rows]

    def contents(self) -> dict[str, dict[str, Stored]]:
        found = {}
        for path in self.files:
            with safe_open(path, framework="pt") as shard:
                codes = {name: shard.get_slice(name).get_dtype() for name in shard.keys()}  # noqa: SIM118
            if odd := [name for name, code in codes.items() if code not in DTYPES]:
                raise ContractError(
                    f"{path}: {odd[0]} is stored as {codes[odd[0]]}; expected {', '.join(DTYPES)}. Take the checkpoint "
                    "as published, not one that was quantised."
                )
            for name, code in codes.items():
                found[name] = Stored(self.shapes[name], DTYPES[code], _without_rows(self.parts, name))
        return {"": found}

    def place(self, name: str) -> tuple[str, str]:
        return "", name


def _indexed(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        try:
            return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ContractError(f"{index} is not an index of shards ({error!r}); copy it again.") from error
    if not single.is_file():
        raise ContractError(f"{folder} has no weights; expected {INDEX} with its shards, or {SINGLE}.")
    try:
        with safe_open(single, framework="pt") as shard:
            return dict.fromkeys(shard.keys(), single)
    except (SafetensorError, OSError) as error:
        size = single.stat().st_size
        raise ContractError(f"{single} is truncated or damaged ({error}; {size} bytes); copy it again.") from error


class PrismaticFile:
    """A run's `checkpoints/*.pt`, mapped into memory and read with `weights_only`.

    others: parts of the file that are not the vision-language model's, by name -> their tensors' shapes; CogACT's
    action head is one.
    """

    def __init__(self, path: Path) -> None:
        """Raises ContractError if the file is damaged, or holds anything but tensors."""
        self.where, self._path = str(path), path
        self._read_since_open = 0
        self._places = {_renamed(part, name): (part, name) for part in _PARTS for name in self._model[part]}
        self.shapes = {name: tuple(self._model[part][n].shape) for name, (part, n) in self._places.items()}
        self.others = {
            part: {n: tuple(tensor.shape) for n, tensor in held.items()} if isinstance(held, dict) else {}
            for part, held in self._model.items()
            if part not in _PARTS
        }

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    @cached_property
    def _model(self) -> dict[str, dict[str, Tensor]]:
        try:
            body = torch.load(self._path, map_location="cpu", mmap=True, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ContractError(
                f"{self._path} cannot be read as tensors ({reason}); it is damaged, or holds code, which is never run. "
                "Copy it again."
            ) from error
        model = body.get("model") if isinstance(body, dict) else None
        if not isinstance(model, dict) or not _PARTS.keys() <= model.keys():
            raise ContractError(
                f"{self._path}: expected a Prismatic checkpoint with 'model' of {', '.join(_PARTS)}; "
                f"found {', '.join(map(str, model if isinstance(model, dict) else body))}."
            )
        return model

    def parts(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        return self._slices(*self._places[name])

    def contents(self) -> dict[str, dict[str, Stored]]:
        found = {}
        for part, held in self._model.items():
            if odd := [n for n, tensor in held.items() if tensor.dtype not in DTYPES.values()]:
                raise ContractError(f"{self.where}: {part} {odd[0]} is {held[odd[0]].dtype}; expected floating point.")
            found[part] = {
                name: Stored(tuple(tensor.shape), tensor.dtype, _without_rows(self._slices, part, name))
                for name, tensor in held.items()
            }
        return found

    def place(self, name: str) -> tuple[str, str]:
        return self._places[name]

    def other_parts(self, part: str, name: str) -> Iterator[tuple[slice, Tensor]]:
        """The same for a tensor of `others`."""
        return self._slices(part, name)

    def _slices(self, part: str, name: str) -> Iterator[tuple[slice, Tensor]]:
        for rows in row_slices(tuple(self._model[part][name].shape)):
            self._reopen_if_due()
            yield rows, self._counted(self._model[part][name][rows])

    def _reopen_if_due(self) -> None:
        if self._read_since_open > max(PART_BYTES, self._path.stat().st_size // _REOPEN_SHARE):
            self._read_since_open = 0
            self.__dict__.pop("_model", None)

    def _counted(self, part: Tensor) -> Tensor:
        self._read_since_open += part.nbytes
        return part


def _without_rows(parts: Callable[..., Iterator[tuple[slice, Tensor]]], *of: str) -> Callable[[], Iterator[Tensor]]:
    return lambda: (part for _, part in parts(*of))


def _renamed(part: str, name: str) -> str:
    for old, new in _PARTS[part].items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            return name.removesuffix(".gamma") + ".scale_factor" if name.endswith(".gamma") else name
    return f"{part}.{name}"


def row_slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the first axis of about `PART_BYTES` each, at four bytes a number."""
    if not shape:
        yield slice(None)
        return
    row = 4
    for size in shape[1:]:
        row *= size
    step = max(1, PART_BYTES // max(row, 1))
    for begin in range(0, shape[0], step):
        yield slice(begin, min(begin + step, shape[0]))
