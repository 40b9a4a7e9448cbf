"""`actdistill dataset import`: a LeRobot or RLDS data set from elsewhere into a data set of this package.

One episode is in memory at a time. Killed at any moment, the same command goes on with the first episode that is not
finished. What the import made is a data set like any other: `train`, `distill` and the rest read it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actdistill_ros.contract.chunk import ACTION_DIM, TRANSLATION
from actdistill_ros.data import layout, statistics
from actdistill_ros.data.conversion import CHUNK, Converter, episodes
from actdistill_ros.data.episode import DataError, Episode
from actdistill_ros.data.index import read_info, read_table
from actdistill_ros.data.mapping import check_fit, load
from actdistill_ros.data.part import METADATA, write_text
from actdistill_ros.data.reader import Dataset
from actdistill_ros.data.source import Recorded, Source
from actdistill_ros.data.video import Encoder
from actdistill_ros.data.writer import Writer

RECORD = "meta/import.json"
FORMATS = ("lerobot", "rlds")
TRIAL_FRAMES = 24
SPACE_MARGIN = 1.2
EPISODES_PER_FILE = 10
REPORT_EVERY_S = 5.0
BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class Estimate:
    """frames in all; bytes on disk; bytes in memory for an episode as long as the first."""

    frames: int
    disk_bytes: float
    memory_bytes: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of the data set to read")
    parser.add_argument(
        "--format", choices=FORMATS, required=True, help="lerobot: v2.0, v2.1, v3.0; rlds: Open X, TFRecord"
    )
    parser.add_argument("--mapping", type=Path, required=True, help="which column is what; see docs/datasets.md")
    parser.add_argument("--out", type=Path, required=True, help="data set to make; an unfinished import is continued")
    parser.add_argument(
        "--chunk",
        type=int,
        default=CHUNK,
        help=f"actions that each frame is labelled with, as many as the policy gives (default: {CHUNK})",
    )
    parser.add_argument("--split", default="train", help="which split of an RLDS data set (default: train)")
    parser.add_argument("--skip", type=int, nargs="+", default=[], metavar="EPISODE", help="episodes to leave out")
    parser.add_argument("--dry-run", action="store_true", help="check everything and estimate the size; write nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    _check_out(args.source, args.out)
    converter = open_checked(args.source, args.format, args.mapping, args.split, args.chunk)
    if args.dry_run:
        _left(converter, args)
        return 0
    started = time.monotonic()
    with _alone(args.out):
        left = _left(converter, args)
        frames = _import(converter, left, args.out)
        summary = finish(args.out, converter.mapping.robot)
    print(_told(args.out, summary))
    if args.json:
        from actdistill_ros.trials.report import machine

        seconds = time.monotonic() - started
        done = {"imported": len(left), "imported_frames": frames, "skipped": sorted(args.skip), "seconds": seconds}
        write_text(json.dumps(summary | done | machine(), indent=1) + "\n", args.json)
    return 0


def open_checked(folder: Path, layout_name: str, mapping: Path, split: str = "train", chunk: int = CHUNK) -> Converter:
    """The source and what is made of it; everything that can be known without decoding is checked here.

    Raises DataError if files are missing or cut off, or the mapping does not fit.
    """
    if chunk < 2:
        raise DataError(f"--chunk is {chunk}, expected 2 or more: a policy that plans gives several actions at once.")
    wanted = load(mapping)
    if layout_name == "rlds":
        from actdistill_ros.data.rlds import RldsSource

        source: Source = RldsSource.open(folder, split)
    else:
        from actdistill_ros.data.lerobot_source import LeRobotSource

        source = LeRobotSource.open(folder)
    check_fit(wanted, source)
    converter = Converter(wanted, source, chunk)
    _ = converter.cameras  # raises where a camera's images have no size that can be stored
    source.check(wanted.keys())
    return converter


def estimate(converter: Converter, left: Collection[int]) -> Estimate:
    """From the first episode: its images are encoded on trial, the rest is arithmetic."""
    recorded, episode = next(episodes(converter, lambda index: index == min(left)))
    source = converter.source
    if source.frames is not None:
        frames = source.frames / source.episodes * len(left)
    else:
        frames = recorded.length * source.size_bytes / max(1, recorded.size_bytes) / source.episodes * len(left)
    frames /= converter.mapping.stride
    numbers = episode.state.shape[1] + ACTION_DIM * (1 + converter.chunk) + 1 + len(layout.COUNTERS) * 2
    per_frame = numbers * BYTES_PER_NUMBER + sum(_video_bytes(images) for images in episode.images.values())
    memory = sum(images.nbytes for images in episode.images.values())
    return Estimate(round(frames), frames * per_frame, memory)


def finished(out: Path) -> frozenset[int]:
    """Episodes of the source that are in finished files, whether or not meta/ knows them yet."""
    found = set()
    for number in layout.file_numbers(out):
        metadata = read_table(layout.data_file(out, number), "data file").schema.metadata or {}
        found |= {entry["meta"]["source_episode"] for entry in json.loads(metadata.get(METADATA, b"[]"))}
    return frozenset(found)


def finish(out: Path, key: str) -> dict:
    """Statistics of the finished data set, written and told: episodes, frames, statistics hash, agreement."""
    data = Dataset.open(out)
    found = statistics.save(out, key, data.columns("chunk"))
    return {
        "dataset": str(out),
        "episodes": len(data.episodes),
        "frames": len(data),
        "instructions": len(set(data.instructions())),
        "statistics_key": key,
        "statistics_sha256": found.digest(),
        "agreement": agreement(data),
    }


def agreement(data: Dataset) -> dict[str, float]:
    """How the arm moved against how its actions told it to: correlation, and length of the one over the other's.

    Both near 1 where units, signs and frame are right; the correlation near 0 or below where they are not.
    """
    position, action = data.columns(layout.STATE)[:, :3].astype(float), data.columns(layout.ACTION).astype(float)
    inside = np.diff(data.columns("episode_index")) == 0
    moved, told = np.diff(position, axis=0)[inside], action[:-1, TRANSLATION][inside]
    lengths = float((moved**2).sum()), float((told**2).sum())
    if min(lengths) == 0.0:
        return {"correlation": 0.0, "length_ratio": 0.0}
    together = float((moved * told).sum())
    return {"correlation": together / float(np.sqrt(np.prod(lengths))), "length_ratio": together / lengths[1]}


def _left(converter: Converter, args: argparse.Namespace) -> list[int]:
    """Episodes to import, after what they will take was said and found to fit."""
    total = converter.source.episodes
    if odd := [index for index in args.skip if not 0 <= index < total]:
        raise DataError(f"--skip {odd[0]}: {args.source} has episodes 0 … {total - 1}.")
    if set(range(total)) <= set(args.skip):
        raise DataError(f"--skip leaves out all {total} episodes of {args.source}; nothing would be imported.")
    done = _continue(converter.source, args)
    if there := sorted(done.intersection(args.skip)):
        raise DataError(
            f"--skip {there[0]}: that episode is in {args.out} already; give another --out to leave it out."
        )
    left = [index for index in range(total) if index not in done and index not in args.skip]
    print(f"{args.source}: {total} episodes, {len(done)} are there, {len(left)} to import")
    if left:
        _check_space(estimate(converter, left), args.out)
    return left


def _check_out(source: Path, out: Path) -> None:
    """Never write into what is read."""
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(f"--out {out} lies in the data set that is read, {source}; give a folder elsewhere.")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two imports into one data set would both make every episode; the kernel lets go of the lock with the process."""
    lock = out / "meta" / ".importing"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another import into {out} is running; wait for it, or give another --out.") from None
        yield


def _continue(source: Source, args: argparse.Namespace) -> frozenset[int]:
    """Which episodes are there already; DataError if they came from elsewhere or under another mapping."""
    record = {
        "format": args.format,
        "source": args.source.name,
        "source_sha256": source.fingerprint(),
        "mapping": args.mapping.read_text(),
        "mapping_sha256": hashlib.sha256(args.mapping.read_bytes()).hexdigest(),
    }
    path = args.out / RECORD
    if path.is_file():
        try:
            there = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise DataError(f"{path} cannot be read ({error}); delete {args.out} and import anew.") from error
        for what in ("source_sha256", "mapping_sha256"):
            if there.get(what) != record[what]:
                raise DataError(
                    f"{args.out} was imported from another {what.partition('_')[0]} (or it was changed since); give "
                    "another --out, or delete it to start anew."
                )
        if (args.out / layout.INFO).exists():
            labels = read_info(args.out)["features"]["chunk"]["shape"][0]
            if labels != args.chunk:
                raise DataError(
                    f"{args.out} has {labels} actions per frame, --chunk is {args.chunk}; give --chunk {labels}, or "
                    "another --out."
                )
    elif (args.out / layout.INFO).exists():
        raise DataError(f"{args.out} holds a data set that was not imported; give another --out.")
    elif not args.dry_run:
        write_text(json.dumps(record, indent=1) + "\n", path)
    return finished(args.out)


def _check_space(found: Estimate, out: Path) -> None:
    print(
        f"about {found.frames} frames, {_size(found.disk_bytes)} on disk; an episode takes about "
        f"{_size(found.memory_bytes)} of memory",
        flush=True,
    )
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if (free := shutil.disk_usage(place).free) < SPACE_MARGIN * found.disk_bytes:
        raise DataError(
            f"{out} would take about {_size(found.disk_bytes)}, {place} has {_size(free)} free; make room, or give the "
            "cameras a smaller size in the mapping."
        )


def _import(converter: Converter, left: Collection[int], out: Path) -> int:
    """Convert and write; returns frames. What is finished stays if an episode turns out to be damaged."""
    mapping, extras = converter.mapping, {"chunk": (converter.chunk, ACTION_DIM)}
    # With nothing left too: the import may have been killed before meta/ was written.
    with Writer.open(
        out, converter.cameras, mapping.fps, mapping.robot, extras, episodes_per_file=EPISODES_PER_FILE
    ) as writer:
        return _write(writer.add, episodes(converter, set(left).__contains__), len(left)) if left else 0


def _write(add: Callable[[Episode], None], found: Iterable[tuple[Recorded, Episode]], total: int) -> int:
    start = told = time.monotonic()
    frames = count = 0
    for count, (_, episode) in enumerate(found, 1):
        add(episode)
        frames += len(episode)
        now = time.monotonic()
        if now - told >= REPORT_EVERY_S or count == total:
            told = now
            rate, remaining = frames / (now - start), (now - start) / count * (total - count)
            print(f"{count}/{total} episodes, {frames} frames, {rate:.0f} frames/s, {remaining:.0f} s left", flush=True)
    if count != total:
        raise DataError(f"the source gave {count} of {total} episodes; it changed while it was read. Import it again.")
    return frames


def _told(out: Path, summary: dict) -> str:
    found = summary["agreement"]
    text = (
        f"{out}: {summary['episodes']} episodes, {summary['frames']} frames, "
        f"{summary['instructions']} {'sentence' if summary['instructions'] == 1 else 'sentences'}; "
        f"the arm went where its actions told it with correlation {found['correlation']:.2f}, "
        f"{found['length_ratio']:.2f} of the way"
    )
    if found["correlation"] < 0.5 or not 0.3 < found["length_ratio"] < 1.7:
        text += (
            "\nwarning: that is not what right units, signs and frames give; check scale, frame, kind and the order of "
            "columns in the mapping before training on it."
        )
    return text


def _video_bytes(images: np.ndarray) -> float:
    """Bytes per frame of (T, H, W, 3), encoded on trial."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.mp4"
        encoder = Encoder(path, *images.shape[1:3], fps=10)
        for image in images[:TRIAL_FRAMES]:
            encoder.write(image)
        encoder.close()
        return path.stat().st_size / min(TRIAL_FRAMES, len(images))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(0.1, count / 1e6):.1f} MB"
