"""A LeRobotDataset v3 folder as arrays."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actdistill_ros.contract.contract import CameraSpec
from actdistill_ros.contract.preprocess import policy_view
from actdistill_ros.data import layout
from actdistill_ros.data.episode import DataError, Episode
from actdistill_ros.data.index import read_info, read_table
from actdistill_ros.data.video import decode

REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class Row:
    """One line of the episodes table: frames `start` … `stop` of the data set, and where its videos are.

    files: camera -> (video file number, first frame in it); seed is -1 where the data set names none.
    """

    index: int
    start: int
    stop: int
    instruction: str
    seed: int
    meta: Mapping[str, object]
    data: int
    files: Mapping[str, tuple[int, int]]


class Dataset:
    """`open` one, then ask for columns and frames: N frames in all, those of one episode in a row.

    Read-only but for `cache/`, which holds decoded frames and can be deleted at any time.
    """

    def __init__(self, folder: Path, info: dict, episodes: tuple[Row, ...]) -> None:
        self.folder, self.info, self.episodes = folder, info, episodes
        self.cameras = tuple(key.removeprefix(layout.IMAGES) for key in layout.video_keys(info["features"]))
        self._starts = np.array([row.start for row in episodes])

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Raises DataError if something is missing or does not fit together."""
        folder = Path(folder)
        info = read_info(folder)
        if not info["total_episodes"]:
            raise DataError(
                f"{folder} has no episodes yet; record some; if a recording was cut off, repeat its "
                "`actdistill collect` or `actdistill dataset import`."
            )
        table = read_table(folder / layout.EPISODES, "episodes table")
        cameras = [key.removeprefix(layout.IMAGES) for key in layout.video_keys(info["features"])]
        rows = tuple(
            sorted((_row(line, cameras, info["fps"]) for line in table.to_pylist()), key=lambda row: row.index)
        )
        known, present = {row.data for row in rows}, set(layout.file_numbers(folder))
        if len(rows) != info["total_episodes"] or known - present:
            raise DataError(
                f"{folder} promises {info['total_episodes']} episodes, its table has {len(rows)}, and data files "
                f"{sorted(known - present) or 'none'} are missing; copy it again, "
                "or repeat its `actdistill collect` or `actdistill dataset import`."
            )
        if present - known:
            raise DataError(
                f"{folder} has data files {sorted(present - known)} that meta/ does not know; "
                "repeat its `actdistill collect` or `actdistill dataset import`."
            )
        return cls(folder, info, rows)

    def __len__(self) -> int:
        return self.info["total_frames"]

    def columns(self, name: str) -> np.ndarray:
        """A whole column, (N, …); DataError lists the valid names."""
        features = {key: value for key, value in self.info["features"].items() if value["dtype"] != "video"}
        if name not in features:
            raise DataError(f"{self.folder} has no column {name!r}; it has {', '.join(features)}.")
        tables = [self._data(number).select([name]) for number in sorted({row.data for row in self.episodes})]
        values = layout.from_column(pa.concat_tables(tables)[name], features[name])
        if len(values) != len(self):
            raise DataError(
                f"{self.folder} has {len(values)} values of {name}, its table promises {len(self)}; copy it again."
            )
        return values

    def episode_index(self, frame: int | np.ndarray) -> np.ndarray:
        """Which episode a frame of 0 … N - 1 belongs to."""
        return np.searchsorted(self._starts, frame, side="right") - 1

    def instructions(self) -> list[str]:
        """The instruction of each episode."""
        return [row.instruction for row in self.episodes]

    def frames(self, camera: str, size: int | None = None, cache: bool = True) -> np.ndarray:
        """All frames of a camera, (N, size, size, 3) uint8 RGB as the policy sees them, or as recorded without `size`.

        With `cache` they are decoded once into a file under cache/, named by the content of the videos, and mapped.
        """
        if size is None:
            return self.views(camera, "full", self.camera_shape(camera), lambda image: image, cache)
        spec = CameraSpec(camera, size, *self.camera_shape(camera))
        return self.views(camera, str(size), (size, size), lambda image: policy_view(image, spec), cache)

    def views(
        self,
        camera: str,
        name: str,
        size: tuple[int, int],
        view: Callable[[np.ndarray], np.ndarray],
        cache: bool = True,
    ) -> np.ndarray:
        """All frames of a camera, each as `view` turns it to (H, W, 3) uint8; like `frames` otherwise. name: of the
        view, for its file; another view needs another name. Raises DataError if they do not fit on the disk."""
        shape = (len(self), *size, 3)
        self.camera_shape(camera)
        if not cache:
            return self._decode_into(np.empty(shape, np.uint8), camera, view)
        path = self.folder / "cache" / f"{camera}-{name}-{self._digest(camera)}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with open(path.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one decodes, the others wait
                if not path.exists():
                    self._keep(path, shape, camera, view)
            path.with_suffix(".lock").unlink(missing_ok=True)
            for older in set(path.parent.glob(f"{camera}-{name}-*.npy")) - {path}:
                older.unlink(missing_ok=True)
        return np.load(path, mmap_mode="r")

    def _keep(self, path: Path, shape: tuple[int, ...], camera: str, view: Callable[[np.ndarray], np.ndarray]) -> None:
        """A file of all frames that is whole or not there. Raises DataError if the disk is too small."""
        # A mapped file that outgrows the disk kills the process without a word.
        if (free := shutil.disk_usage(path.parent).free) < (needed := int(np.prod(shape, dtype=np.int64))):
            raise DataError(
                f"{path.parent} needs {needed / 1e9:.1f} GB for the decoded frames of {camera}, {free / 1e9:.1f} GB "
                "are free; make room, or put the data set on another disk."
            )
        unfinished = path.with_suffix(".unfinished")
        try:
            array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            self._decode_into(array, camera, view).flush()
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def episode(self, index: int) -> Episode:
        """One whole episode, its images as recorded."""
        row = self.episodes[index]
        first = min(other.start for other in self.episodes if other.data == row.data)
        table = self._data(row.data).slice(row.start - first, row.stop - row.start)
        values = {name: layout.from_column(table[name], self.info["features"][name]) for name in table.column_names}
        known = {layout.STATE, layout.ACTION, "timestamp", *layout.COUNTERS}
        images = {}
        for camera in self.cameras:
            number, start = row.files[camera]
            images[camera] = np.stack(
                list(decode(layout.video_file(self.folder, camera, number), start, row.stop - row.start))
            )
        extras = {name: value for name, value in values.items() if name not in known}
        return Episode(images, values[layout.STATE], values[layout.ACTION], row.instruction, row.seed, extras, row.meta)

    def _data(self, number: int) -> pa.Table:
        return read_table(layout.data_file(self.folder, number), "data file")

    def camera_shape(self, camera: str) -> tuple[int, int]:
        """(height, width) of a camera's recorded frames; DataError lists the valid names."""
        if camera not in self.cameras:
            raise DataError(f"{self.folder} has no camera {camera!r}; it has {', '.join(self.cameras)}.")
        height, width, _ = self.info["features"][layout.IMAGES + camera]["shape"]
        return height, width

    def _runs(self, camera: str) -> Iterator[tuple[int, int, int, int]]:
        """(video file, first frame in it, frames, first frame in the data set) of episodes that lie in a row."""
        run: tuple[int, int, int, int] | None = None
        for row in self.episodes:
            number, offset = row.files[camera]
            length = row.stop - row.start
            if run and run[0] == number and run[1] + run[2] == offset and run[3] + run[2] == row.start:
                run = (run[0], run[1], run[2] + length, run[3])
                continue
            if run:
                yield run
            run = (number, offset, length, row.start)
        if run:
            yield run

    def _decode_into(self, array: np.ndarray, camera: str, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Says how far it is if that takes long."""
        begun = told = time.monotonic()
        for number, offset, length, start in self._runs(camera):
            for position, image in enumerate(
                decode(layout.video_file(self.folder, camera, number), offset, length), start
            ):
                array[position] = view(image)
                if (now := time.monotonic()) - told >= REPORT_EVERY_S:
                    told, left = now, (now - begun) / (position + 1) * (len(array) - position - 1)
                    print(
                        f"{self.folder}: {position + 1} of {len(array)} frames of {camera} decoded, {left:.0f} s left",
                        flush=True,
                    )
        return array

    def _digest(self, camera: str) -> str:
        digest = hashlib.sha256(json.dumps(list(self._runs(camera))).encode())
        for number in sorted({run[0] for run in self._runs(camera)}):
            path = layout.video_file(self.folder, camera, number)
            if not path.is_file():
                raise DataError(f"video {path} is missing; copy the data set again, with its videos.")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]


def _row(line: Mapping, cameras: list[str], fps: int) -> Row:
    def number(prefix: str) -> int:
        return line[f"{prefix}/chunk_index"] * layout.FILES_PER_CHUNK + line[f"{prefix}/file_index"]

    keys = {camera: f"videos/{layout.IMAGES}{camera}" for camera in cameras}
    return Row(
        index=line["episode_index"],
        start=line["dataset_from_index"],
        stop=line["dataset_to_index"],
        instruction=line["tasks"][0],
        seed=line.get("seed", -1),
        meta=json.loads(line.get("meta") or "{}"),
        data=number("data"),
        files={camera: (number(key), round(line[f"{key}/from_timestamp"] * fps)) for camera, key in keys.items()},
    )
