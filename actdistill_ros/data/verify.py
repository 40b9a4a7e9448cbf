"""`actdistill dataset verify`: reads every number and decodes every frame of a data set, and names what is wrong."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actdistill_ros.contract.chunk import ACTION_NAMES
from actdistill_ros.contract.contract import STATE_NAMES
from actdistill_ros.data import layout, statistics
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.part import write_text
from actdistill_ros.data.reader import Dataset, Row
from actdistill_ros.data.video import decode

REPORT_EVERY_S = 5.0
TIME_TOLERANCE_S = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="data set of `actdistill collect` or `actdistill dataset import`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")


def run(args: argparse.Namespace) -> int:
    data = Dataset.open(args.folder)
    found = [*numbers(data), *frames(data)]
    for fault in found:
        print(fault, file=sys.stderr)
    cameras = ", ".join(data.cameras) or "no camera"
    print(f"{args.folder}: {len(data.episodes)} episodes, {len(data)} frames, {cameras}: {len(found) or 'no'} faults")
    if args.json:
        report = {"dataset": str(args.folder), "episodes": len(data.episodes), "frames": len(data), "faults": found}
        write_text(json.dumps(report, indent=1) + "\n", args.json)
    return 1 if found else 0


def numbers(data: Dataset) -> Iterator[str]:
    """Faults of the columns, sentences and statistics, one text each."""
    columns, unread = {}, {}
    for name, feature in data.info["features"].items():
        if feature["dtype"] != "video":
            try:
                columns[name] = data.columns(name)
            except (DataError, ValueError, KeyError) as error:
                unread.setdefault(str(error), []).append(name)
    for error, names in unread.items():
        yield f"column {', '.join(names)}: {error}"
    yield from _foreign(data)
    for name, values in columns.items():
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            frame = int(np.argwhere(~finite)[0, 0])
            yield f"column {name} is not finite in frame {frame} (episode {data.episode_index(frame)})"
    for row in data.episodes:
        if not row.instruction.strip():
            yield f"episode {row.index} has no sentence"
        yield from _counters(row, columns, data.info["fps"])
    if (data.folder / statistics.FILE).exists() and "chunk" in columns:
        yield from _statistics(data.folder, columns["chunk"])


def _foreign(data: Dataset) -> Iterator[str]:
    """Why nothing can be learnt from a data set that others recorded and that was not imported."""
    features, mend = data.info["features"], "make a data set of it with `actdistill dataset import`"
    for column, expected in ((layout.STATE, STATE_NAMES), (layout.ACTION, ACTION_NAMES)):
        names = features.get(column, {}).get("names") or ()
        if tuple(names) != tuple(expected):
            yield f"{column} is {', '.join(map(str, names)) or 'without names'}, not {', '.join(expected)}; {mend}"
    if "chunk" not in features:
        yield f"no column chunk, what should be done next at each frame; {mend}"


def frames(data: Dataset) -> Iterator[str]:
    """Faults of the videos, one text each, with progress."""
    start = told = time.monotonic()
    total = len(data.episodes) * len(data.cameras)
    for done, (camera, row) in enumerate(((camera, row) for camera in data.cameras for row in data.episodes), 1):
        number, first = row.files[camera]
        try:
            for _ in decode(layout.video_file(data.folder, camera, number), first, row.stop - row.start):
                pass
        except DataError as error:
            yield f"episode {row.index}: {error}"
        now = time.monotonic()
        if now - told >= REPORT_EVERY_S:
            told = now
            left = (now - start) / done * (total - done)
            print(f"{done}/{total} videos of episodes, {left:.0f} s left", flush=True)


def _counters(row: Row, columns: dict[str, np.ndarray], fps: int) -> Iterator[str]:
    length = row.stop - row.start
    expected = {
        "index": np.arange(row.start, row.stop),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, row.index),
        "timestamp": np.arange(length) / fps,
    }
    for name, values in expected.items():
        if name in columns and not np.allclose(columns[name][row.start : row.stop], values, atol=TIME_TOLERANCE_S):
            yield f"episode {row.index}: {name} does not count as it should"


def _statistics(folder: Path, chunks: np.ndarray) -> Iterator[str]:
    try:
        for key, found in statistics.load(folder).items():
            if found != statistics.compute(chunks):
                yield f"statistics {key} are not those of the data; import the data set again"
    except DataError as error:
        yield str(error)
