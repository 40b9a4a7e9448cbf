"""Episodes into a LeRobotDataset v3 folder, from one process or several, surviving a kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from actdistill_ros.contract.chunk import ACTION_NAMES
from actdistill_ros.contract.contract import STATE_NAMES
from actdistill_ros.data import layout
from actdistill_ros.data.episode import DataError, Episode, Extra, check
from actdistill_ros.data.index import read_info, read_table, rebuild
from actdistill_ros.data.part import METADATA, Part, folder_lock, write_text

EPISODES_PER_FILE = 20


class Writer:
    """`open`, `add` …, `close`; as many processes at once on one folder as one likes.

    Episodes become part of the data set a file at a time, so a killed process loses the episodes of its unfinished
    file and nothing else. `seeds` are those of the episodes that were there at `open`: skip them to go on.
    """

    def __init__(
        self,
        folder: Path,
        cameras: Mapping,
        fps: int,
        extras: Mapping[str, Extra],
        widths: tuple[int, int],
        per_file: int,
    ) -> None:
        self.folder, self.seeds = folder, finished_seeds(folder)
        self._cameras, self._fps, self._extras = dict(cameras), fps, dict(extras)
        self._widths, self._per_file = widths, per_file
        self._dtypes = {name: np.dtype(extra.dtype) for name, extra in extras.items()}
        self._part: Part | None = None

    @classmethod
    def open(
        cls,
        folder: Path | str,
        cameras: Mapping[str, tuple[int, int]],
        fps: int,
        robot: str,
        extras: Mapping[str, tuple[int, ...] | Extra] | None = None,
        state_names: Sequence[str] = STATE_NAMES,
        action_names: Sequence[str] = ACTION_NAMES,
        resume: bool = True,
        episodes_per_file: int = EPISODES_PER_FILE,
    ) -> Writer:
        """A new data set, or with `resume` more of one that has the same features.

        cameras: name -> (H, W); extras: name -> shape of one frame's value (float32), or `Extra`.
        Raises DataError if the folder has a data set of other features, or has one and `resume` is False.
        """
        folder = Path(folder)
        extras = {
            name: extra if isinstance(extra, Extra) else Extra(tuple(extra)) for name, extra in (extras or {}).items()
        }
        features = layout.features(cameras, fps, extras, state_names, action_names)
        info = {
            "codebase_version": layout.VERSION, "robot_type": robot, "fps": fps,
            "total_episodes": 0, "total_frames": 0, "total_tasks": 0,
            "chunks_size": layout.FILES_PER_CHUNK, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
            "splits": {"train": "0:0"}, "data_path": layout.DATA_PATH, "video_path": layout.VIDEO_PATH,
            "features": features,
        }  # fmt: skip
        with folder_lock(folder):
            if not (folder / layout.INFO).exists():
                write_text(json.dumps(info, indent=1) + "\n", folder / layout.INFO)
            elif not resume:
                raise DataError(f"{folder} already holds a data set; give another folder, or resume to add to it.")
            _check_same(read_info(folder), info, folder)
        rebuild(folder)
        return cls(folder, cameras, fps, extras, (len(state_names), len(action_names)), episodes_per_file)

    def add(self, episode: Episode) -> None:
        """Raises DataError, before anything is written, if the episode does not fit the data set."""
        check(episode, self._cameras, self._extras, *self._widths)
        if self._part is None:
            self._part = Part(self.folder, self._cameras, self._fps)
        try:
            self._part.add(episode, self._dtypes)
        except BaseException:
            # Half an episode may be in the videos now, so nothing may follow it in this file.
            self._finish()
            raise
        if len(self._part) >= self._per_file:
            self._finish()

    def close(self) -> None:
        """Finish the last file and bring meta/ up to date; may be called twice."""
        self._finish()
        rebuild(self.folder)

    def _finish(self) -> None:
        if self._part is not None:
            part, self._part = self._part, None
            part.finish() if len(part) else part.abandon()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def finished_seeds(folder: Path | str) -> frozenset[int]:
    """Seeds of all episodes in finished files, whether or not meta/ knows them yet."""
    folder, seeds = Path(folder), set()
    for number in layout.file_numbers(folder):
        metadata = read_table(layout.data_file(folder, number), "data file").schema.metadata or {}
        seeds |= {entry["seed"] for entry in json.loads(metadata.get(METADATA, b"[]"))}
    return frozenset(seeds)


def _check_same(found: dict, wanted: dict, folder: Path) -> None:
    for name in ("fps", "robot_type"):
        if found[name] != wanted[name]:
            raise DataError(
                f"{folder} has {name} {found[name]!r}, to be added is {wanted[name]!r}; give another folder."
            )
    for name in sorted(found["features"].keys() | wanted["features"].keys()):
        old, new = found["features"].get(name), wanted["features"].get(name)
        if old != new:
            raise DataError(
                f"{folder} has {name} as {old}, to be added is {new}; give another folder or record the same."
            )
