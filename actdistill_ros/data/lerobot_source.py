"""LeRobot data sets that others recorded, layouts v2.0, v2.1 and v3.0, as a `Source`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actdistill_ros.data import foreign_video
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.index import read_table
from actdistill_ros.data.source import Field, Recorded, decode_image

TASK = "task"
"""Name under which the sentence of each frame is read; it stands in meta/ and not among the features."""
OLD, NEW = ("v2.0", "v2.1"), "v3.0"
_NUMBERS = ("float", "int", "uint", "bool")


@dataclass(frozen=True)
class Place:
    """Where one episode is: its data file and, per video key, (file, first second in it)."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


class LeRobotSource:
    """`open` one; see `Source`. Colour images in the parquet files or in videos; text and number columns."""

    def __init__(self, folder: Path, info: dict, places: Sequence[Place], tasks: Mapping[int, str]) -> None:
        self.folder, self.info, self.places, self._tasks = folder, info, tuple(places), tasks
        found = {key: _field(feature) for key, feature in info["features"].items()}
        self.fields = {key: field for key, field in found.items() if field is not None}
        self.fields[TASK] = Field((), "string", "text")
        self.fps, self.robot = float(info["fps"]), str(info.get("robot_type") or "unknown")
        self.episodes, self.frames = len(places), sum(place.length for place in places)
        self.size_bytes = sum(path.stat().st_size for path in {place.data for place in places} if path.is_file())

    @classmethod
    def open(cls, folder: Path) -> LeRobotSource:
        """Raises DataError if meta/ is missing, damaged, of another version, or contradicts itself."""
        info = _info(folder)
        try:
            old = info["codebase_version"] in OLD
            places, tasks = (_places_old if old else _places_new)(folder, info)
            promised = info["total_episodes"], info["total_frames"]
            found = len(places), sum(place.length for place in places)
            if promised != found or not places:
                raise DataError(
                    f"{folder}/meta/info.json promises {promised[0]} episodes of {promised[1]} frames, the list of "
                    f"episodes has {found[0]} of {found[1]}; copy the data set again."
                )
            return cls(folder, info, sorted(places, key=lambda place: place.index), tasks)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{folder}/meta is not as {info['codebase_version']} lays it out ({error!r}); copy the data set again."
            ) from error

    def check(self, keys: Sequence[str]) -> None:
        videos = [key for key in keys if self.info["features"].get(key, {}).get("dtype") == "video"]
        for path in sorted({place.data for place in self.places}):
            _check_parquet(path)
        for key in videos:
            for path in sorted({place.videos[key][0] for place in self.places}):
                foreign_video.check_whole(path)

    def read(self, keys: Sequence[str], wanted: Callable[[int], bool]) -> Iterator[Recorded]:
        stored = [key for key in keys if key in self.info["features"] and not self._is_video(key)]
        opened: tuple[Path, pa.Table] | None = None
        for place in self.places:
            if not wanted(place.index):
                continue
            if opened is None or opened[0] != place.data:
                opened = place.data, self._table(place.data, stored)
            yield self._episode(place, opened[1], stored)

    def fingerprint(self) -> str:
        return hashlib.sha256((self.folder / "meta" / "info.json").read_bytes()).hexdigest()

    def _is_video(self, key: str) -> bool:
        return self.info["features"][key]["dtype"] == "video"

    def _table(self, path: Path, stored: Sequence[str]) -> pa.Table:
        needed = list(dict.fromkeys([*stored, "episode_index", "frame_index", "timestamp", "task_index"]))
        try:
            names = pq.read_schema(path).names
            if missing := [name for name in needed if name not in names]:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}. meta/info.json and the "
                    "data disagree: copy the data set again."
                )
            return pq.read_table(path, columns=needed)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"data file {path} cannot be read ({error}); it was damaged, copy it again.") from error

    def _episode(self, place: Place, table: pa.Table, stored: Sequence[str]) -> Recorded:
        where = f"episode {place.index} in {place.data}"
        rows = np.flatnonzero(table["episode_index"].to_numpy() == place.index)
        if len(rows) != place.length or (rows.size and rows[-1] - rows[0] != len(rows) - 1):
            raise DataError(f"{where} has {len(rows)} frames, meta/ promises {place.length}; copy the data set again.")
        table = table.slice(int(rows[0]), place.length)
        self._check_times(table, where)
        values = {key: self._column(key, table[key], where) for key in stored if self.fields[key].kind != "image"}
        values[TASK] = np.array([self._task(number, where) for number in table["task_index"].to_pylist()])
        frames = lambda key: self._frames(place, key, table, where)
        return Recorded(place.index, values, frames, place.length)

    def _check_times(self, table: pa.Table, where: str) -> None:
        times = table["timestamp"].to_numpy().astype(np.float64)
        expected = table["frame_index"].to_numpy() / self.fps
        if not np.array_equal(table["frame_index"].to_numpy(), np.arange(len(times))):
            raise DataError(f"the frames of {where} are not numbered 0 … {len(times) - 1}; frames are missing.")
        late = np.abs(times - times[0] - expected) * self.fps
        if not late.max() <= foreign_video.TOLERANCE:
            frame = int(np.argmax(np.nan_to_num(late, nan=np.inf)))
            raise DataError(
                f"frame {frame} of {where} has time {times[frame] - times[0]:.3f} s, expected {expected[frame]:.3f} s "
                f"at {self.fps:g} frames per second: the rate in meta/info.json is not that of the data."
            )

    def _column(self, key: str, column: pa.ChunkedArray, where: str) -> np.ndarray:
        field = self.fields[key]
        if field.kind == "text":
            return np.array(column.to_pylist(), dtype=str)
        length = len(column)
        flat = column.combine_chunks()
        while pa.types.is_nested(flat.type):
            flat = flat.flatten()
        numbers = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
        if numbers.size != length * int(np.prod(field.shape)):
            raise DataError(
                f"{key} of {where} has {numbers.size / length:g} values per frame, meta/info.json promises "
                f"{list(field.shape)}; the data and its description disagree."
            )
        return numbers.reshape(length, *field.shape)

    def _task(self, number: int, where: str) -> str:
        if number not in self._tasks:
            raise DataError(f"{where} has task {number}, the list of tasks ends at {max(self._tasks, default=-1)}.")
        return self._tasks[number]

    def _frames(self, place: Place, key: str, table: pa.Table, where: str) -> Iterator[np.ndarray]:
        if self._is_video(key):
            path, start_s = place.videos[key]
            yield from foreign_video.decode_at(path, start_s, self.fps, place.length)
            return
        for number, image in enumerate(table[key]):
            yield decode_image(self._bytes(image.as_py(), where), f"{key}, frame {number} of {where}")

    def _bytes(self, image: object, where: str) -> bytes:
        """An image is stored in the table, or as a file beside it that the table names."""
        if isinstance(image, Mapping):
            if image.get("bytes"):
                return image["bytes"]
            path = self.folder / str(image.get("path"))
            if path.is_file():
                return path.read_bytes()
            raise DataError(
                f"{where} has an image without bytes whose file {path} is missing; copy it with its images."
            )
        return image if isinstance(image, bytes) else b""


def _info(folder: Path) -> dict:
    path = folder / "meta" / "info.json"
    if not path.is_file():
        raise DataError(
            f"{folder} is no LeRobot data set: meta/info.json is missing. Give the folder that holds meta/."
        )
    try:
        info = json.loads(path.read_text())
        version = info["codebase_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no description of a data set ({error!r}); copy it again.") from error
    if version not in (*OLD, NEW):
        raise DataError(f"{path} says version {version!r}, read are {', '.join((*OLD, NEW))}; convert it with lerobot.")
    return info


def _field(feature: Mapping) -> Field | None:
    """None for what is neither image, text nor number: it may be there, but cannot be asked for."""
    dtype, shape = feature["dtype"], tuple(feature["shape"])
    if dtype in ("video", "image"):
        # Some writers give channels first, and name the axes otherwise than they are.
        channels_first = len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)
        return Field((*shape[1:], shape[0]) if channels_first else shape, "uint8", "image")
    if dtype == "string":
        return Field((), dtype, "text")
    if not dtype.startswith(_NUMBERS):
        return None
    names = feature.get("names")
    while isinstance(names, Mapping) and len(names) == 1:
        names = next(iter(names.values()))
    fits = (
        isinstance(names, list) and len(names) == (shape[0] if shape else 0) and len(set(map(str, names))) == len(names)
    )
    return Field(shape, dtype, "number", tuple(map(str, names)) if fits else None)


def _video_keys(info: dict) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] == "video"]


def _places_old(folder: Path, info: dict) -> tuple[list[Place], dict[int, str]]:
    """v2: a file per episode and camera; episodes and tasks are lines of JSON."""
    places = []
    for line in _lines(folder / "meta" / "episodes.jsonl"):
        names = {
            "episode_index": line["episode_index"],
            "episode_chunk": line["episode_index"] // info["chunks_size"],
            "total_episodes": info["total_episodes"],
        }
        videos = {key: (folder / info["video_path"].format(video_key=key, **names), 0.0) for key in _video_keys(info)}
        places.append(Place(line["episode_index"], line["length"], folder / info["data_path"].format(**names), videos))
    return places, {line["task_index"]: line["task"] for line in _lines(folder / "meta" / "tasks.jsonl")}


def _places_new(folder: Path, info: dict) -> tuple[list[Place], dict[int, str]]:
    """v3: many episodes per file; tables say where each is."""
    paths = sorted((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DataError(f"{folder} has no meta/episodes/chunk-…/file-….parquet; copy the data set again, with meta/.")
    places = []
    for path in paths:
        table = read_table(path, "episodes table")
        table = table.select([name for name in table.column_names if not name.startswith("stats/")])
        places += [_place_new(folder, info, line) for line in table.to_pylist()]
    table = read_table(folder / "meta" / "tasks.parquet", "tasks table")
    text = next(name for name in (TASK, "__index_level_0__") if name in table.column_names)
    return places, dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def _place_new(folder: Path, info: dict, line: Mapping) -> Place:
    data = info["data_path"].format(chunk_index=line["data/chunk_index"], file_index=line["data/file_index"])
    videos = {}
    for key in _video_keys(info):
        at = f"videos/{key}"
        path = info["video_path"].format(
            video_key=key, chunk_index=line[f"{at}/chunk_index"], file_index=line[f"{at}/file_index"]
        )
        videos[key] = folder / path, float(line[f"{at}/from_timestamp"])
    return Place(line["episode_index"], line["length"], folder / data, videos)


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        raise DataError(f"{path} is missing; copy the data set again, with its meta/.")
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is cut off or damaged ({error}); copy it again.") from error


def _check_parquet(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"data file {path} is missing; copy the data set again.")
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        if start != b"PAR1" or file.read(4) != b"PAR1":
            raise DataError(
                f"data file {path} is not whole ({path.stat().st_size} bytes); it was cut off, copy it again."
            )
