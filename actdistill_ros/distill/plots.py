"""One picture of a distillation: success against compute, losses over budgets, layers that ran, probes by depth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actdistill_ros.distill.judge import Judged
    from actdistill_ros.distill.report import Findings


def draw(found: Findings, work: Path, path: Path, drawn: Sequence[tuple[str, str]]) -> bool:
    """drawn: label and key of what is shown of the held-out curve. Whether there is a picture now: a machine without
    matplotlib trains all the same."""
    if find_spec("matplotlib") is None:
        print("no picture: the Python module matplotlib is not here.")
        return False
    from matplotlib.figure import Figure

    suites = list(found.judged) or [""]
    rows = (len(suites) + 4) // 2
    figure = Figure(figsize=(12, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2).flatten()
    for panel, suite in zip(axes, suites, strict=False):
        _success(panel, suite, found.judged.get(suite, []))
    others = axes[len(suites) :]
    _losses(others[0], found, drawn)
    _layers(others[1], found)
    _curve(others[2], found, work)
    for panel in others[3:]:
        panel.set_axis_off()
    figure.suptitle(f"{found.student}, student of {found.teacher}")
    figure.savefig(path, dpi=110)
    return True


def _success(axes, suite: str, judged: Sequence[Judged]) -> None:
    axes.set(
        title=f"Success against compute: {suite}" if suite else "Success against compute",
        xlabel="share of the decoder's FLOPs",
        ylabel="success [%], 95 % interval",
    )
    kinds: dict[str, list[Judged]] = {}
    for one in judged:
        kinds.setdefault(one.name.partition(" at ")[0], []).append(one)
    markers = iter("sDv^PX<>")
    for kind, found in kinds.items():
        style = {"teacher": "*", "student": "o-"}.get(kind) or next(markers)
        _points(axes, sorted(found, key=lambda one: one.body["decoder_flops_share"]), style, kind)
    if judged:
        axes.legend(fontsize=8, loc="lower right")
    else:
        axes.text(0.5, 0.5, "not judged", ha="center", transform=axes.transAxes)
    axes.set_xlim(0, 1.05)


def _points(axes, judged: Sequence[Judged], style: str, label: str) -> None:
    bodies = [one.body for one in judged]
    x, y = [body["decoder_flops_share"] for body in bodies], [100 * body["success_rate"] for body in bodies]
    low = [max(0.0, s - 100 * body["ci95"][0]) for s, body in zip(y, bodies, strict=True)]
    high = [max(0.0, 100 * body["ci95"][1] - s) for s, body in zip(y, bodies, strict=True)]
    axes.errorbar(x, y, [low, high], fmt=style, capsize=3, alpha=0.8, label=label)


def _losses(axes, found: Findings, drawn: Sequence[tuple[str, str]]) -> None:
    axes.set(title="One student, every budget (held-out episodes)", xlabel="budget", ylabel="loss, open loop")
    for label, key in drawn:
        axes.plot([r["budget"] for r in found.held_out], [r[key] for r in found.held_out], marker=".", label=label)
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def _layers(axes, found: Findings) -> None:
    axes.set(title="Layers: what they know, and how often they run", xlabel="layer", ylabel="share")
    layers = range(len(found.probe_errors))
    axes.plot(layers, found.probe_errors, color="black", marker=".", label="probe error (share of variance)")
    first = next(iter(found.judged.values()), [])
    student = next((one for one in first if one.name == "student"), None)
    if student:
        axes.bar(layers, student.body["layer_frequency"], alpha=0.4, label="share of steps in which the layer ran")
    axes.set_ylim(0, 1.25)
    axes.legend(fontsize=8, loc="upper center", ncols=2)


def _curve(axes, found: Findings, work: Path) -> None:
    axes.set(title="Training of the student", xlabel="step", ylabel="smoothed loss")
    lines = [json.loads(line) for line in (work / "student.jsonl").read_text().splitlines()]
    for key in lines[-1] if lines else ():
        if key not in ("step", "layers"):
            axes.plot([line["step"] for line in lines], [line[key] for line in lines], label=key)
    axes.set_yscale("log")
    if lines:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
