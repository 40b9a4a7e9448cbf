"""What trials found: the JSON file, which also lets an interrupted run go on, and the table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from actdistill_ros.trials.interval import wilson
from actdistill_ros.trials.protocol import SUCCESS, UNJUDGED, Result, Trial, TrialsError

PACKAGES = ("actdistill_ros", "torch", "transformers", "onnxruntime", "openvino", "numpy", "mujoco", "ros-rclpy")


def summary(results: Sequence[Result]) -> dict:
    """Rates with their 95 % interval, over all and per task; unjudged trials count in neither."""
    tasks = dict.fromkeys(result.task for result in results)
    return {
        **_rates(results),
        "tasks": {task: _rates([result for result in results if result.task == task]) for task in tasks},
    }


def _rates(results: Sequence[Result]) -> dict:
    judged = [result for result in results if result.verdict != UNJUDGED]
    successes = sum(result.verdict == SUCCESS for result in judged)
    return {
        "success_rate": successes / len(judged) if judged else None,
        "ci95": list(wilson(successes, len(judged))),
        "successes": successes,
        "judged": len(judged),
        "mean_seconds": sum(result.seconds for result in judged) / len(judged) if judged else None,
        "mean_steps": sum(result.steps for result in judged) / len(judged) if judged else None,
    }


def table(results: Sequence[Result]) -> str:
    """One line per task and one for all."""
    found = summary(results)
    lines = [f"{'task':<10}{'success':>10}{'rate':>8}{'95 % interval':>18}{'seconds':>10}{'steps':>8}"]
    for name, rates in [*found["tasks"].items(), ("all", found)]:
        count = f"{rates['successes']}/{rates['judged']}"
        if not rates["judged"]:
            lines.append(f"{name:<10}{count:>10}")
            continue
        low, high = rates["ci95"]
        interval = f"{low:.0%} … {high:.0%}".replace("%", " %")
        rate = f"{rates['success_rate']:.0%}".replace("%", " %")
        lines.append(
            f"{name:<10}{count:>10}{rate:>8}{interval:>18}{rates['mean_seconds']:>10.1f}{rates['mean_steps']:>8.1f}"
        )
    return "\n".join(lines)


def write(path: Path, results: Sequence[Result], planned: int, settings: dict, pace: dict | None = None) -> None:
    """The whole report (`pace`: of `pace.measure`); the file is either the old one or the new one, never half of it."""
    body = {
        "trials": [asdict(result) for result in results],
        **summary(results),
        "planned": planned,
        **settings,
        **({"pace": pace} if pace else {}),
        **machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(body, indent=1) + "\n")
    os.replace(unfinished, path)


def done(path: Path | None, trials: Sequence[Trial], settings: dict, resume: bool) -> list[Result]:
    """Results that an earlier run left in `path`, in the order of `trials`; none without `resume`.

    Raises TrialsError if an unfinished run would be overwritten, or if the file is of other trials than these.
    """
    if path is None or not path.exists():
        return []
    try:
        body = json.loads(path.read_text())
        names = {field.name for field in fields(Result)}
        found = {
            (entry["task"], entry["seed"]): Result(**{name: entry[name] for name in names}) for entry in body["trials"]
        }
        planned = body["planned"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TrialsError(f"{path} is no report of trials ({error!r}); give another file to --json.") from error
    if not resume:
        if len(found) < planned:
            raise TrialsError(
                f"{path} has {len(found)} of {planned} trials; --resume goes on, or delete the file to start over."
            )
        return []
    other = {key: body.get(key) for key, value in settings.items() if body.get(key) != value}
    if other or set(found) - {(trial.task, trial.seed) for trial in trials}:
        wanted = {key: settings[key] for key in other}
        raise TrialsError(
            f"{path} is of other trials: {other or 'other seeds'} there, {wanted or 'not planned'} here; "
            "give another file to --json."
        )
    return [found[trial.task, trial.seed] for trial in trials if (trial.task, trial.seed) in found]


def machine(device: str = "cpu") -> dict:
    """Where it was measured: processor, its threads, versions. device: that torch computed on; a GPU is named beside
    the processor."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found = {"device": _processor(), "threads": len(os.sched_getaffinity(0)), "versions": versions}
    if device == "cpu":
        return found
    import torch

    return found | {"processor": found["device"], "device": torch.cuda.get_device_name(device)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
