"""meta/ of a data set, rebuilt from its finished files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actdistill_ros.data import layout
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.part import METADATA, folder_lock, remove_abandoned, write_table, write_text

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


def rebuild(folder: Path) -> None:
    """Number all episodes, frames and tasks in file order and write meta/ to match; safe to repeat and to interrupt.

    Raises DataError if `folder` is no data set of this package or a file of it is broken.
    """
    with folder_lock(folder):
        remove_abandoned(folder)
        info = read_info(folder)
        tasks: dict[str, int] = {}
        rows: list[dict] = []
        columns: dict[str, list[np.ndarray]] = {}
        for number in layout.file_numbers(folder):
            _number_file(folder, number, info, tasks, rows, columns)
        episodes, frames = len(rows), rows[-1]["dataset_to_index"] if rows else 0
        info |= {
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": len(tasks),
            "splits": {"train": f"0:{episodes}"},
        }
        if rows:
            statistics = {name: _statistics(np.concatenate(parts)) for name, parts in columns.items()}
            statistics |= _image_statistics([row.pop("images") for row in rows])
            write_table(pa.Table.from_pylist(rows), folder / layout.EPISODES)
            write_table(layout.tasks_table(tasks), folder / layout.TASKS)
            write_text(json.dumps(statistics, indent=1) + "\n", folder / layout.STATS)
        # Last: the counts promise that everything else is there.
        write_text(json.dumps(info, indent=1) + "\n", folder / layout.INFO)


def read_info(folder: Path) -> dict:
    """info.json; DataError if it is missing, broken or of another version."""
    path = folder / layout.INFO
    try:
        info = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if found := _rlds(folder):
            raise DataError(
                f"{folder} is no data set of this package but an RLDS one, as {found.relative_to(folder)} shows; make "
                f"one of it with `actdistill dataset import --from {found.parent} --format rlds --mapping FILE.yaml "
                "--out FOLDER` (docs/datasets.md says what the mapping is)."
            ) from None
        raise DataError(
            f"{folder} is no data set: {layout.INFO} is missing. Give the folder that holds meta/, data/ and videos/."
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); copy the data set again.") from error
    if info.get("codebase_version") != layout.VERSION:
        raise DataError(
            f"{path} says version {info.get('codebase_version')!r}, this package's data sets have {layout.VERSION!r}; "
            "make one of it with `actdistill dataset import --format lerobot`."
        )
    return info


def _rlds(folder: Path) -> Path | None:
    """A file that only an RLDS data set has, in the folder or in one of its versions (`NAME/1.0.0`), newest first."""
    versions = sorted((path for path in folder.glob("*.*.*") if path.is_dir()), reverse=True)
    for place in (folder, *versions):
        for pattern in ("features.json", "dataset_info.json", "*.tfrecord*"):
            if found := min(place.glob(pattern), default=None):
                return found
    return None


def read_table(path: Path, what: str) -> pa.Table:
    """A parquet file; DataError if it is missing or broken."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{what} {path} is missing; copy the data set again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{what} {path} cannot be read ({error}); it was cut or damaged, copy it again.") from error


def _number_file(
    folder: Path, number: int, info: dict, tasks: dict[str, int], rows: list[dict], columns: dict[str, list]
) -> None:
    """Append the file's episodes to `rows`, its columns to `columns`; rewrite the file if its counters are others."""
    path = layout.data_file(folder, number)
    table = read_table(path, "data file")
    entries = json.loads((table.schema.metadata or {}).get(METADATA, b"null"))
    if entries is None:
        raise DataError(
            f"{path} was not written by this package, so its episodes are unknown; keep foreign files out of {folder}."
        )
    first, start = len(rows), rows[-1]["dataset_to_index"] if rows else 0
    lengths = [entry["length"] for entry in entries]
    numbers = [tasks.setdefault(entry["instruction"], len(tasks)) for entry in entries]
    counters = {
        "episode_index": np.repeat(np.arange(first, first + len(entries)), lengths),
        "index": np.arange(start, start + sum(lengths)),
        "task_index": np.repeat(numbers, lengths).astype(np.int64),
    }
    changed = False
    for name, values in counters.items():
        if not np.array_equal(table[name].to_numpy(), values):
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
            changed = True
    if changed:
        write_table(table, path)
    for name, feature in info["features"].items():
        if feature["dtype"] != "video":
            columns.setdefault(name, []).append(layout.from_column(table[name], feature))
    rows += _episode_rows(entries, number, first, start, info)


def _episode_rows(entries: list[dict], number: int, first: int, start: int, info: dict) -> list[dict]:
    chunk, file = divmod(number, layout.FILES_PER_CHUNK)
    rows, offset = [], 0
    for episode, entry in enumerate(entries, first):
        row = {
            "episode_index": episode,
            "tasks": [entry["instruction"]],
            "length": entry["length"],
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": start + offset,
            "dataset_to_index": start + offset + entry["length"],
        }
        for key in layout.video_keys(info["features"]):
            row |= {
                f"videos/{key}/chunk_index": chunk,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": offset / info["fps"],
                f"videos/{key}/to_timestamp": (offset + entry["length"]) / info["fps"],
            }
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        rows.append(row | {"seed": entry["seed"], "meta": json.dumps(entry["meta"]), "images": entry["images"]})
        offset += entry["length"]
    return rows


def _statistics(values: np.ndarray) -> dict[str, list]:
    """min, max, mean, std, count and quantiles of (N, …) over N, numbers as lists of one."""
    wide = values.reshape(len(values), -1).astype(np.float64)
    shape = values.shape[1:] or (1,)
    found = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
    found |= {
        f"q{round(q * 100):02d}": quantile
        for q, quantile in zip(QUANTILES, np.quantile(wide, QUANTILES, axis=0), strict=True)
    }
    return {name: value.reshape(shape).tolist() for name, value in found.items()} | {"count": [len(values)]}


def _image_statistics(episodes: list[Mapping[str, dict]]) -> dict[str, dict]:
    """Channel statistics in [0, 1], shaped (3, 1, 1), from what each episode's sampled frames summed up to."""
    result = {}
    for camera in episodes[0]:
        sums = [episode[camera] for episode in episodes]
        count = sum(each["count"] for each in sums)
        mean = np.sum([each["sum"] for each in sums], axis=0) / count
        deviation = np.sqrt(np.maximum(np.sum([each["squares"] for each in sums], axis=0) / count - mean**2, 0))
        found = {
            "min": np.min([each["min"] for each in sums], axis=0),
            "max": np.max([each["max"] for each in sums], axis=0),
            "mean": mean,
            "std": deviation,
        }
        result[layout.IMAGES + camera] = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {
            "count": [count]
        }
    return result
