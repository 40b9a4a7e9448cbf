"""A benchmark's process, seen from the policy's side: started, asked, ended."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from actdistill_ros.suites.benchmark import wire
from actdistill_ros.suites.policy import Look

END_S = 3.0
LOG_LINES = 12


class WorldError(RuntimeError):
    """The benchmark cannot be started, has died, or answered nonsense; the text says how to mend it."""


@dataclass(frozen=True)
class Task:
    """One task of a suite; trials: how many initial states its files hold."""

    name: str
    instruction: str
    trials: int


class World:
    """One benchmark process. Use it in a `with` block: whatever happens, the process is gone afterwards."""

    def __init__(
        self, python: Path, script: Path, arguments: Sequence[str], log: Path, answer_s: float = 180.0
    ) -> None:
        """python: of the benchmark's environment; log: file for what the process prints; answer_s: patience per
        request.

        Raises WorldError if the process does not come up and answer.
        """
        self._log = log
        ours, theirs = socket.socketpair()
        ours.settimeout(answer_s)
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        try:
            with theirs, open(log, "ab") as sink:
                # A session of its own: Ctrl-C is for us, and we end the process in order.
                self._process = subprocess.Popen(
                    [str(python), str(script), str(theirs.fileno()), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise WorldError(f"{python} cannot be started: {error}") from error
        self._connection = ours
        try:
            header, _ = self._ask({"op": "hello"})
            self.tasks = tuple(Task(**task) for task in header["tasks"])
            self.versions: Mapping[str, str] = header["versions"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def build(self, task: int, seed: int) -> None:
        """Make the world of that task and seed its random numbers."""
        self._ask({"op": "build", "task": task, "seed": seed})
        self._instruction = self.tasks[task].instruction

    def reset(self, trial: int, settle: int, still: np.ndarray, draws: np.ndarray | None) -> tuple[Look, np.ndarray]:
        """(what is seen after settling, the simulator's random state after the reset as uint32).

        draws: the random state that the reset before this one left; None to go on from where the process is.
        """
        arrays = {"still": np.asarray(still, dtype="<f8")} | ({} if draws is None else {"draws": draws.astype("<u4")})
        header, found = self._ask({"op": "reset", "trial": trial, "settle": settle}, arrays)
        return self._look(header, found), found["draws"].copy()

    def step(self, action: np.ndarray, look: bool = True) -> tuple[Look, bool]:
        """(what is seen then, whether the task is done). look: False leaves the images out, which saves most of the
        time."""
        header, found = self._ask({"op": "step", "look": look}, {"action": np.asarray(action, dtype="<f8")})
        return self._look(header, found), bool(header["done"])

    def close(self) -> None:
        """End the process; it goes by itself once its socket closes, unless it is in the middle of something."""
        self._connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _look(self, header: dict, arrays: Mapping[str, np.ndarray]) -> Look:
        names = header.get("objects", [])
        images = {name[: -len("_image")]: array for name, array in arrays.items() if name.endswith("_image")}
        for name, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise WorldError(f"camera {name} came as {image.dtype} {image.shape}; expected (H, W, 3) uint8")
        if arrays["objects"].shape != (len(names), 7) or not np.isfinite(arrays["state"]).all():
            raise WorldError(
                f"the benchmark's state makes no sense: {len(names)} objects, {arrays['objects'].shape} poses"
            )
        poses = dict(zip(names, arrays["objects"], strict=True))
        return Look(images, arrays["state"], self._instruction, poses)

    def _ask(self, body: dict, arrays: Mapping[str, np.ndarray] | None = None) -> tuple[dict, dict[str, np.ndarray]]:
        try:
            wire.send(self._connection, body, arrays)
            header, found = wire.receive(self._connection)
        except TimeoutError as error:
            patience = self._connection.gettimeout()
            raise WorldError(
                f"the benchmark did not answer {body['op']} within {patience:g} s. See {self._log}."
            ) from error
        except (EOFError, OSError, wire.WireError) as error:
            raise WorldError(f"the benchmark's process has gone ({error}). It said:\n{self._last_words()}") from error
        if "error" in header:
            raise WorldError(f"the benchmark refused {body['op']}: {header['error']}")
        return header, found

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  nothing"
