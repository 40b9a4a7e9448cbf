"""A stage of training that can be killed at any moment and goes on along the same curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

LOG_EVERY = 50


class DistillError(ValueError):
    """A distillation that cannot start or go on; the text says why and how to mend it."""


class Stage(Protocol):
    """name: of its files; settings: everything that decides its curve, as JSON; steps: how many it takes."""

    name: str
    settings: str
    steps: int
    step: int

    def update(self) -> dict[str, float]:
        """One optimiser step, a function of the state and `step` alone; returns losses by name."""

    def state(self) -> dict:
        """All that the next step depends on, but for data and teacher; what torch.load reads with weights_only."""

    def restore(self, state: dict) -> None: ...


def fit(
    stage: Stage, folder: Path, save_every: int, say: Callable[[str], None] = print, main: bool = True
) -> dict[str, float]:
    """Train to the end, from where an earlier run in `folder` was killed if there was one; the smoothed last losses.

    main: False in all but one of the processes that train together: they resume alike, but write and say nothing.
    Raises DistillError if that run had other settings, or if a loss is not a number.
    """
    if main:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        say = _nothing
    path, curve_path = folder / f"{stage.name}.pt", folder / f"{stage.name}.jsonl"
    curve = _resume(stage, path)
    if stage.step:
        say(f"{stage.name}: goes on at step {stage.step} of {stage.steps}")
    if main:
        _forget_after(curve_path, stage.step)
    start, first = time.monotonic(), stage.step
    while stage.step < stage.steps:
        for name, value in stage.update().items():
            if not math.isfinite(value):
                raise DistillError(
                    f"{stage.name}: loss {name} is {value} at step {stage.step}; expected a number. The last good "
                    f"state is {path}. Lower --learning-rate and give another --out, or remove {folder}."
                )
            curve[name] = 0.98 * curve.get(name, value) + 0.02 * value
        if stage.step % LOG_EVERY == 0 or stage.step == stage.steps:
            left = (stage.steps - stage.step) / (stage.step - first) * (time.monotonic() - start)
            text = "  ".join(f"{name} {value:.4f}" for name, value in curve.items())
            say(f"{stage.name} {stage.step}/{stage.steps}  {text}  {left / 60:.1f} min left")
            if main:
                with curve_path.open("a") as file:
                    file.write(json.dumps({"step": stage.step, **curve}) + "\n")
        if stage.step % save_every == 0 or stage.step == stage.steps:
            state = stage.state()  # all processes have to ask: each may have a part
            if main:
                _save({"settings": stage.settings, "step": stage.step, "curve": curve, "stage": state}, path)
    return curve


def _nothing(text: str) -> None:
    pass


def _save(state: dict, path: Path) -> None:
    """Replaced in one move, so that a kill leaves the old state or the new one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _resume(stage: Stage, path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["settings"] != stage.settings:
        old, new = json.loads(saved["settings"]), json.loads(stage.settings)
        other = [f"{key}: {old.get(key)} there, {new.get(key)} now" for key in new if old.get(key) != new.get(key)]
        raise DistillError(
            f"{path} belongs to a run with other settings ({'; '.join(other)}); repeat those, give another --out, "
            f"or remove {path.parent}."
        )
    stage.step = saved["step"]
    stage.restore(saved["stage"])
    return saved["curve"]


def _forget_after(path: Path, step: int) -> None:
    """Drop what a killed run logged past the state that is resumed: it is about to be logged again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines))
