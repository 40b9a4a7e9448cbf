"""One picture of a distillation: success against compute, losses over budgets, layers that ran, probes by depth."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actdistill_ros.distill.report import Findings


def draw(found: Findings, work: Path, path: Path) -> bool:
    """Whether there is a picture now: a machine without matplotlib trains all the same."""
    if find_spec("matplotlib") is None:
        print("no picture: the Python module matplotlib is not here.")
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _success(axes[0, 0], found)
    _losses(axes[0, 1], found)
    _layers(axes[1, 0], found)
    _curve(axes[1, 1], found, work)
    figure.suptitle(f"{found.student}, student of {found.teacher}")
    figure.savefig(path, dpi=110)
    return True


def _success(axes, found: Findings) -> None:
    axes.set(
        title="Success against compute", xlabel="share of the decoder's FLOPs", ylabel="success [%], 95 % interval"
    )
    for one in found.judged:
        x, y, (low, high) = one.body["decoder_flops_share"], 100 * one.body["success_rate"], one.body["ci95"]
        error = [[max(0.0, y - 100 * low)], [max(0.0, 100 * high - y)]]
        marker = "o" if one.name == "teacher" or one.name.startswith("student") else "s"
        axes.errorbar(x, y, error, marker=marker, capsize=3, label=one.name)
    if found.judged:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "not judged", ha="center", transform=axes.transAxes)
    axes.set_xlim(0, 1.05)


def _losses(axes, found: Findings) -> None:
    axes.set(title="One student, every budget (held-out episodes)", xlabel="budget", ylabel="loss, open loop")
    for key, label in (("motion", "motion, to the expert"), ("output", "chunk, to the teacher")):
        axes.plot([r["budget"] for r in found.held_out], [r[key] for r in found.held_out], marker=".", label=label)
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def _layers(axes, found: Findings) -> None:
    axes.set(title="Layers: what they know, and how often they run", xlabel="layer", ylabel="share")
    layers = range(len(found.probe_errors))
    axes.plot(layers, found.probe_errors, color="black", marker=".", label="probe error (share of variance)")
    student = next((one for one in found.judged if one.name == "student"), None)
    if student:
        axes.bar(layers, student.body["layer_frequency"], alpha=0.4, label="share of steps in which the layer ran")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8)


def _curve(axes, found: Findings, work: Path) -> None:
    axes.set(title="Training of the student", xlabel="step", ylabel="smoothed loss")
    lines = [json.loads(line) for line in (work / "student.jsonl").read_text().splitlines()]
    for key in lines[-1] if lines else ():
        if key not in ("step", "layers"):
            axes.plot([line["step"] for line in lines], [line[key] for line in lines], label=key)
    axes.set_yscale("log")
    axes.legend(fontsize=8)
