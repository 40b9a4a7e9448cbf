"""The folder of a run: one line per episode that ended, so that a run killed at any moment goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

SETTINGS, EPISODES = "settings.json", "episodes.jsonl"


class RecordError(RuntimeError):
    """The folder is of another run, in use or damaged; the text says how to mend it."""


@dataclass(frozen=True)
class Ended:
    """One episode. number: its place in the schedule; steps: actions of the policy; step_ms, decoder_ms: of each
    decision; executed: share of the decisions in which each decoder layer ran; first_view: what the policy saw first
    (see `statistics`); draws: what the simulator's next reset needs, as text."""

    number: int
    task: int
    trial: int
    success: bool
    steps: int
    step_ms: list[float]
    decoder_ms: list[float]
    executed: list[float]
    budget: float | None
    first_view: dict
    draws: str = field(repr=False)


class Record:
    """Holds the folder for this process until `close`."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """settings: what must be the same for episodes to belong to one run. Raises RecordError if they differ from the
        folder's, if another process writes there, or if the file is damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = open(folder / EPISODES, "a+b")  # noqa: SIM115  it holds the lock until `close`
        try:
            self._lock()
            self._agree(json.loads(json.dumps(dict(settings))))
            self.ended = {episode.number: episode for episode in self._read()}
        except BaseException:
            self._file.close()
            raise

    def add(self, episode: Ended) -> None:
        """Kept for good once this returns."""
        self._file.write(json.dumps(asdict(episode)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.ended[episode.number] = episode

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"another run writes to {self.folder}; wait for it, or give this one its own --out"
            ) from error

    def _agree(self, settings: dict) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(settings, indent=1) + "\n")
            os.replace(unfinished, path)
            return
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise RecordError(f"{path} is damaged ({error}); delete the folder or give another --out") from error
        if differing := [key for key in {**found, **settings} if found.get(key) != settings.get(key)]:
            there = ", ".join(f"{key} {found.get(key)!r}" for key in sorted(differing))
            here = ", ".join(f"{key} {settings.get(key)!r}" for key in sorted(differing))
            raise RecordError(f"{self.folder} is of another run: {there} there, {here} here. Give another --out.")

    def _read(self) -> list[Ended]:
        self._file.seek(0)
        data = self._file.read()
        whole, _, torn = data.rpartition(b"\n")
        if torn:  # killed in the middle of a line; that episode is run again
            self._file.truncate(len(data) - len(torn))
        names = {f.name for f in fields(Ended)}
        episodes = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                body = json.loads(line)
                episodes.append(Ended(**{name: body[name] for name in names}))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise RecordError(
                    f"{self.folder / EPISODES}, line {number} is damaged ({error!r}). Delete that line to run its "
                    "episode again, or give another --out."
                ) from error
        return episodes
