"""One file number of a data set, written by one process: claimed, filled, and finished by a rename."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actdistill_ros.data import layout
from actdistill_ros.data.episode import Episode
from actdistill_ros.data.video import Encoder

METADATA = b"actdistill.part"
UNFINISHED = ".unfinished"
FRAMES_FOR_STATISTICS = 8
"""Frames of each episode and camera that enter the image statistics."""


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Only one process numbers files or writes meta/ at a time."""
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    with open(folder / "meta" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_abandoned(folder: Path) -> list[int]:
    """Delete what dead processes left half written and return its file numbers. Call under `folder_lock`."""
    removed = []
    for claim in sorted((folder / "meta").glob(".claim-*")):
        with open(claim) as held:
            try:
                # A living writer holds this lock; the kernel drops it with the process, kill -9 included.
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            number = int(claim.name[len(".claim-") :])
            if not layout.data_file(folder, number).exists():
                chunk, file = divmod(number, layout.FILES_PER_CHUNK)
                for path in (folder / "videos").glob(f"*/chunk-{chunk:03d}/file-{file:03d}.*"):
                    path.unlink()
                layout.data_file(folder, number).with_suffix(".parquet" + UNFINISHED).unlink(missing_ok=True)
                removed.append(number)
            claim.unlink()
    return removed


class Part:
    """Episodes of one file number. `finish` makes them part of the data set, all at once."""

    def __init__(self, folder: Path, cameras: Mapping[str, tuple[int, int]], fps: int) -> None:
        self._folder, self._fps = folder, fps
        self._episodes: list[tuple[dict, dict[str, np.ndarray]]] = []
        with folder_lock(folder):
            claims = [int(path.name[len(".claim-") :]) for path in (folder / "meta").glob(".claim-*")]
            self.number = max([-1, *claims, *layout.file_numbers(folder)]) + 1
            self._claim = folder / "meta" / f".claim-{self.number}"
            self._claim_file = open(self._claim, "w")  # noqa: SIM115 (held until the part is finished)
            fcntl.flock(self._claim_file, fcntl.LOCK_EX)
        self._encoders: dict[str, tuple[Encoder, Path]] = {}
        for camera, size in cameras.items():
            path = layout.video_file(folder, camera, self.number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._encoders[camera] = (Encoder(path.with_name(path.name + UNFINISHED), *size, fps), path)

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, episode: Episode, extras: Mapping[str, np.dtype]) -> None:
        for camera, (encoder, _) in self._encoders.items():
            for image in episode.images[camera]:
                encoder.write(image)
        length = len(episode)
        columns = {layout.STATE: episode.state.astype(np.float32), layout.ACTION: episode.action.astype(np.float32)}
        columns |= {name: np.asarray(episode.extras[name]).astype(dtype) for name, dtype in extras.items()}
        columns["timestamp"] = (np.arange(length) / self._fps).astype(np.float32)
        columns["frame_index"] = np.arange(length)
        # Counted within the part here; `index.rebuild` counts over the whole data set, which no single writer knows.
        columns["episode_index"] = np.full(length, len(self._episodes))
        columns["index"] = np.arange(length) + sum(entry["length"] for entry, _ in self._episodes)
        columns["task_index"] = np.zeros(length, dtype=np.int64)
        entry = {
            "length": length,
            "instruction": episode.instruction,
            "seed": int(episode.seed),
            "meta": dict(episode.meta),
            "images": {camera: _image_sums(episode.images[camera]) for camera in self._encoders},
        }
        self._episodes.append((entry, columns))

    def finish(self) -> None:
        """The data file is renamed last: a part exists exactly when its data file does.

        Frames of an episode whose `add` was interrupted stay at the end of the videos, where no episode refers to them.
        """
        for encoder, path in self._encoders.values():
            encoder.close()
            os.replace(path.with_name(path.name + UNFINISHED), path)
        names = self._episodes[0][1]
        values = {name: np.concatenate([columns[name] for _, columns in self._episodes]) for name in names}
        table = pa.table({name: layout.to_column(value) for name, value in values.items()})
        metadata = {METADATA: json.dumps([entry for entry, _ in self._episodes])}
        write_table(table.replace_schema_metadata(metadata), layout.data_file(self._folder, self.number))
        self._release()

    def abandon(self) -> None:
        """Let go without finishing; what was written is deleted."""
        for encoder, path in self._encoders.values():
            with contextlib.suppress(Exception):
                encoder.close()
            path.with_name(path.name + UNFINISHED).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        self._claim.unlink(missing_ok=True)
        self._claim_file.close()


def write_table(table: pa.Table, path: Path) -> None:
    """Parquet file that is either the old one or the whole new one, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    pq.write_table(table, unfinished, compression="snappy")
    os.replace(unfinished, path)


def write_text(text: str, path: Path) -> None:
    """Like `write_table`, for text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.write_text(text)
    os.replace(unfinished, path)


def _image_sums(images: np.ndarray) -> dict:
    """Count, sum, sum of squares, least and largest of each channel in [0, 1] over a few frames of (T, H, W, 3)."""
    picked = images[np.linspace(0, len(images) - 1, min(FRAMES_FOR_STATISTICS, len(images))).astype(int), ::2, ::2]
    values = picked.reshape(-1, 3) / 255.0
    return {
        "count": len(values),
        "sum": values.sum(0).tolist(),
        "squares": (values**2).sum(0).tolist(),
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
    }
