"""Writes tensors into the files of both layouts, a part at a time: a student is as large as its teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from actdistill_ros.policy.vla.sources import DTYPES, INDEX, Stored

SHARD_BYTES = 2_000_000_000
_CODES = {dtype: code for code, dtype in DTYPES.items()} | {torch.bool: "BOOL"}
_ALIGNED = 8  # a safetensors header is padded to this, so that what follows it may be mapped


def write_shards(folder: Path, tensors: Mapping[str, Stored], shard_bytes: int = SHARD_BYTES) -> None:
    """A Hugging Face folder's index and shards, none larger than `shard_bytes` unless a single tensor is."""
    shards: list[dict[str, Stored]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for i, held in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, held)
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.nbytes]
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            _pour(tensor, file)


def write_prismatic(path: Path, model: Mapping[str, Mapping[str, Stored]]) -> None:
    """A run's `checkpoints/NAME.pt`. model: part -> tensor name -> tensor.

    The file is laid out by torch with room for every tensor, then filled. Its checksums are those of the empty room:
    torch does not look at them, an unzipping tool would.
    """
    # Newer than what running a model needs.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.serialization import skip_data

    with FakeTensorMode(), skip_data(materialize_fake_tensors=True):
        empty = {
            part: {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in held.items()}
            for part, held in model.items()
        }
        torch.save({"model": empty}, path)
    with FakeTensorMode():
        placed = torch.load(path, weights_only=True)["model"]
    with path.open("r+b") as file:
        for part, held in model.items():
            for name, tensor in held.items():
                file.seek(placed[part][name].untyped_storage()._checkpoint_offset)
                _pour(tensor, file)


def _pour(tensor: Stored, file: BinaryIO) -> None:
    file.writelines(
        part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data for part in tensor.parts()
    )
