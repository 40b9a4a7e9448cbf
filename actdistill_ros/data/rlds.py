"""RLDS data sets (Open X-Embodiment) as tensorflow-datasets lays them out, as a `Source`, without TensorFlow.

dataset_info.json        splits and their shards
features.json            the nested features; those of `steps` come once per step
NAME-train.tfrecord-00000-of-000NN   one tf.train.Example per episode, its keys the paths of the features joined by "/"
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actdistill_ros.data import tf_example, tfrecord
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.source import Field, Recorded, decode_image

STEPS = "steps/"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_TEXT = ("string", "object", "bytes")


@dataclass(frozen=True)
class Leaf:
    """A feature as it is stored: key in the Example, once per step or once per episode, and how tensors are packed."""

    key: str
    field: Field
    per_step: bool
    encoding: str = "none"


class RldsSource:
    """`open` one split; see `Source`. A column's name is its path without `steps/`, such as `observation/image`."""

    fps, frames = None, None

    def __init__(self, folder: Path, name: str, shards: Sequence[Path], counts: Sequence[int], leaves: Sequence[Leaf]):
        self.folder, self.robot = folder, name
        self._shards, self._counts = tuple(shards), tuple(counts)
        self._leaves = {leaf.key.removeprefix(STEPS): leaf for leaf in leaves}
        self.fields = {key: leaf.field for key, leaf in self._leaves.items()}
        self.episodes = sum(counts)
        self.size_bytes = sum(path.stat().st_size for path in shards)

    @classmethod
    def open(cls, folder: Path, split: str = "train") -> RldsSource:
        """Raises DataError if the descriptions or a shard are missing, or there is no such split."""
        info, features = _json(folder / "dataset_info.json"), _json(folder / "features.json")
        splits = {each.get("name"): each for each in info.get("splits", [])}
        if split not in splits:
            raise DataError(f"{folder} has no split {split!r}; it has {', '.join(map(str, splits)) or 'none'}.")
        if (kind := info.get("fileFormat", "tfrecord")) != "tfrecord":
            raise DataError(
                f"{folder} is stored as {kind}, read are tfrecord files; prepare it with file_format tfrecord."
            )
        shards = _shards(folder, split)
        promised = [int(count) for count in splits[split].get("shardLengths", [])]
        if promised and len(promised) != len(shards):
            raise DataError(
                f"{folder} has {len(shards)} shards of {split}, dataset_info.json promises {len(promised)}."
            )
        counts = promised or [len(tfrecord.lengths(path)) for path in shards]
        leaves = list(_walk(features, (), False, False, folder / "features.json"))
        if not any(leaf.per_step for leaf in leaves):
            raise DataError(
                f"{folder}/features.json has no data set `steps`; only RLDS data sets, episodes of steps, are read."
            )
        return cls(folder, str(info.get("name", "unknown")), shards, counts, leaves)

    def check(self, keys: Sequence[str]) -> None:
        for path, promised in zip(self._shards, self._counts, strict=True):
            if (found := len(tfrecord.lengths(path))) != promised:
                raise DataError(
                    f"{path} has {found} episodes, dataset_info.json promises {promised}; it was cut, copy it again."
                )

    def read(self, keys: Sequence[str], wanted: Callable[[int], bool]) -> Iterator[Recorded]:
        first = 0
        for path, count in zip(self._shards, self._counts, strict=True):
            found = tfrecord.records(path, lambda number, first=first: wanted(first + number))
            for index in filter(wanted, range(first, first + count)):
                try:
                    _, payload = next(found)
                except DataError as error:
                    raise DataError(f"episode {index}: {error} Or leave it out with --skip {index}.") from error
                yield self._episode(index, payload, keys, f"episode {index} in {path}")
            first += count

    def fingerprint(self) -> str:
        digest = hashlib.sha256((self.folder / "features.json").read_bytes())
        digest.update(json.dumps([(path.name, path.stat().st_size) for path in self._shards]).encode())
        return digest.hexdigest()

    def _episode(self, index: int, payload: bytes, keys: Sequence[str], where: str) -> Recorded:
        example = tf_example.parse(payload)
        chosen = {key: self._leaves[key] for key in keys}
        if missing := [leaf.key for leaf in chosen.values() if leaf.key not in example]:
            raise DataError(
                f"{where} lacks {', '.join(missing)}, which features.json promises; it has {_names(example)}."
            )
        lengths = {leaf.key: _steps(leaf, example[leaf.key], where) for leaf in chosen.values() if leaf.per_step}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            found = ", ".join(f"{key}: {count}" for key, count in lengths.items())
            raise DataError(f"{where} has columns of different or no length ({found}); it is damaged.")
        length = next(iter(lengths.values()))
        values = {
            key: _values(leaf, example[leaf.key], length, where)
            for key, leaf in chosen.items()
            if leaf.field.kind != "image"
        }

        def frames(key: str) -> Iterator[np.ndarray]:
            for number, data in enumerate(example[chosen[key].key]):
                yield decode_image(data, f"{key}, step {number} of {where}")

        return Recorded(index, values, frames, length, len(payload))


def _names(example: Mapping) -> str:
    return ", ".join(sorted(example)) or "nothing"


def _steps(leaf: Leaf, value: tf_example.Value, where: str) -> int:
    """How many steps a column has."""
    each = 1 if isinstance(value, list) else int(np.prod(leaf.field.shape))
    if len(value) % each:
        raise DataError(
            f"{leaf.key} of {where} has {len(value)} values, not a multiple of the {each} of its shape "
            f"{list(leaf.field.shape)} in features.json."
        )
    return len(value) // each


def _values(leaf: Leaf, value: tf_example.Value, length: int, where: str) -> np.ndarray:
    """(length, …) float64 or (length,) str; what comes once per episode is repeated."""
    shape = leaf.field.shape
    if leaf.field.kind == "text":
        try:
            text = np.array([each.decode() for each in value], dtype=str)
        except (UnicodeDecodeError, AttributeError) as error:
            raise DataError(f"{leaf.key} of {where} is no text ({error}).") from error
        return text if leaf.per_step else np.repeat(text[:1], length)
    if isinstance(value, list):
        unpack = zlib.decompress if leaf.encoding == "zlib" else bytes
        value = np.concatenate([np.frombuffer(unpack(each), leaf.field.dtype) for each in value])
    numbers = np.asarray(value, dtype=np.float64)
    count = length if leaf.per_step else 1
    if numbers.size != count * int(np.prod(shape)):
        raise DataError(f"{leaf.key} of {where} has {numbers.size} values, expected {count} × {list(shape)}.")
    numbers = numbers.reshape(count, *shape)
    return numbers if leaf.per_step else np.repeat(numbers, length, axis=0)


def _walk(node: Mapping, path: tuple[str, ...], per_step: bool, nested: bool, file: Path) -> Iterator[Leaf]:
    """The leaves of features.json that can be read; sequences inside steps are ragged and left out."""
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _walk(child, (*path, name), per_step, nested, file)
    elif "sequence" in node:
        steps = path == ("steps",)
        yield from _walk(node["sequence"]["feature"], path, per_step or steps, nested or not steps, file)
    elif not nested and (leaf := _leaf(node, "/".join(path), per_step)):
        yield leaf
    elif not path and "pythonClassName" not in node:
        raise DataError(f"{file} is not as tensorflow-datasets 4 writes it; write the data set's features.json anew.")


def _leaf(node: Mapping, key: str, per_step: bool) -> Leaf | None:
    if "image" in node:
        return Leaf(key, Field(_shape(node["image"]), "uint8", "image"), per_step)
    if "text" in node:
        return Leaf(key, Field((), "string", "text"), per_step)
    if "tensor" not in node:
        return None
    tensor = node["tensor"]
    dtype, shape = tensor.get("dtype", "float32"), _shape(tensor)
    if dtype in _TEXT:
        return Leaf(key, Field(shape, "string", "text"), per_step) if not shape else None
    if any(side < 1 for side in shape):
        return None
    return Leaf(key, Field(shape, dtype), per_step, tensor.get("encoding") or "none")


def _shape(node: Mapping) -> tuple[int, ...]:
    """Sides that are unknown come as -1."""
    return tuple(int(side) for side in node.get("shape", {}).get("dimensions", []))


def _json(path: Path) -> dict:
    if not path.is_file():
        below = sorted(str(each.parent) for each in path.parent.glob(f"*/{path.name}"))
        hint = (
            f"did you mean {below[-1]}?" if below else "give the folder of the version, such as bridge_dataset/1.0.0."
        )
        raise DataError(f"{path.parent} is no data set of tensorflow-datasets: {path.name} is missing; {hint}")
    try:
        body = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); it was cut off or damaged, copy it again.") from error
    return body


def _shards(folder: Path, split: str) -> list[Path]:
    """All shards of a split in order; DataError names those that are missing."""
    found = {path.name: path for path in folder.glob(f"*-{split}.tfrecord*") if _SHARD.search(path.name)}
    totals = {_SHARD.search(name).group(2) for name in found}
    if len(totals) != 1:
        raise DataError(
            f"{folder} has {'several sets of' if totals else 'no'} shards named …-{split}.tfrecord-00000-of-…; "
            "copy the data set again."
        )
    (total,) = totals
    stem = _SHARD.sub("", next(iter(found)))
    names = [f"{stem}-{number:05d}-of-{total}" for number in range(int(total))]
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{folder} lacks {len(missing)} of {int(total)} shards, first {missing[0]}; copy them too.")
    return [found[name] for name in names]
