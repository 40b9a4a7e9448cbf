"""What a distillation found: report.json for machines, report.md and report.png for people."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actdistill_ros.distill.judge import Judged
from actdistill_ros.trials.interval import paired_bootstrap

TEXT, BODY, PICTURE = "report.md", "report.json", "report.png"


@dataclass(frozen=True)
class Findings:
    """order: layers as they are best given up; probe_errors: share of the action's variance that each layer misses;
    held_out: rows of `student.held_out_curve`; judged: of each suite, the teacher first; latency: what
    `actdistill bench depth` found, side by side."""

    teacher: str
    student: str
    budget: float
    order: list[int]
    probe_errors: list[float]
    held_out: list[dict[str, float]]
    judged: dict[str, list[Judged]]
    latency: dict
    seconds: float
    parameters: int
    router_parameters: int


@dataclass(frozen=True)
class Columns:
    """How the rows of a held-out curve are told. meaning: a sentence above the table; shown: title and key of each
    column; drawn: label and key of what is in the picture."""

    meaning: str
    shown: tuple[tuple[str, str], ...]
    drawn: tuple[tuple[str, str], ...]


CHUNKS = Columns(
    "Losses against the expert (motion, gripper) and against the teacher; the share of layers that ran is what the "
    "calibrated thresholds gave.",
    (("motion", "motion"), ("gripper", "gripper"), ("to the teacher", "output")),
    (("motion, to the expert", "motion"), ("chunk, to the teacher", "output")),
)


def write(
    found: Findings,
    args: argparse.Namespace,
    work: Path,
    out: Path,
    columns: Columns = CHUNKS,
    more: Sequence[object] = (),
) -> None:
    """more: words of the command besides those that all teachers have in common."""
    from actdistill_ros.distill import plots

    commands = [shlex.join([*command(args), *map(str, more)]), *evaluations(args)]
    differences = {suite: differences_of(judged) for suite, judged in found.judged.items()}
    body = {**asdict(found), "differences": differences, "commands": commands, "settings": _settings(args)}
    _replace(out / BODY, json.dumps(body, indent=1) + "\n")
    picture = plots.draw(found, work, out / PICTURE, columns.drawn)
    _replace(out / TEXT, text(found, commands, picture, columns))


def differences_of(judged: Sequence[Judged]) -> dict[str, dict[str, dict[str, float]]]:
    """By name: `teacher`, success minus the teacher's; of a control `student`, that of the student under the same
    budget minus the control's. On the same seeds, in points."""
    by_name = {one.name: one for one in judged}
    found = {one.name: {"teacher": difference(one, judged[0])} for one in judged[1:]}
    for one in judged:
        if one.rival_of:
            found[one.name]["student"] = difference(by_name[one.rival_of], one)
    return found


def difference(one: Judged, other: Judged) -> dict[str, float]:
    """Success of one minus that of the other on the same seeds, in points, with its 95 % interval."""
    mean, low, high = paired_bootstrap(one.body["outcomes"], other.body["outcomes"])
    return {"points": 100 * mean, "low": 100 * low, "high": 100 * high}


def command(args: argparse.Namespace) -> list[str]:
    """The words of the command that made this student, with all that differs from nothing: the same words make the
    same weights."""
    words = ["actdistill", "distill", "--teacher", args.teacher, "--data", *args.data, "--out", args.out]
    for name in ("budget", "steps", "probe_steps", "batch", "learning_rate", "alpha", "beta", "eta", "output"):
        words += [f"--{name.replace('_', '-')}", getattr(args, name)]
    words += ["--dtype", args.dtype, "--seed", args.seed, "--threads", args.threads]
    words += ["--no-graph"] if args.no_graph else []
    words += ["--recent-actions", args.recent_actions] if args.recent_actions else []
    words += ["--controls", *args.controls] if args.controls is not None else []
    words += ["--control-budgets", *args.control_budgets] if args.control_budgets else []
    words += ["--eval-episodes", args.eval_episodes, "--eval-seed", args.eval_seed]
    words += ["--eval-budgets", *args.eval_budgets] if args.eval_budgets else []
    words += ["--eval-suites", *args.eval_suites] if args.eval_suites != ["tabletop"] else []
    return list(map(str, words))


def evaluations(args: argparse.Namespace) -> list[str]:
    return [
        shlex.join(
            map(
                str,
                [
                    *("actdistill", "eval", "--checkpoint", folder),
                    *("--episodes", args.eval_episodes, "--seed", args.eval_seed),
                    *extra,
                ],
            )
        )
        for folder, extra in ((args.teacher, ()), (args.out, ("--budget", args.budget)))
        if args.eval_episodes
    ]


def text(found: Findings, commands: Sequence[str], picture: bool, columns: Columns = CHUNKS) -> str:
    parts = [
        f"# {found.student}\n",
        f"Student of {found.teacher} for budget {found.budget:g}: {found.parameters / 1e6:.2f} M parameters, "
        f"{found.router_parameters} of them the router's.{_duration(found.seconds)}\n",
    ]
    for suite, judged in found.judged.items():
        differences = differences_of(judged)
        parts += [
            f"## Success in the closed loop: {suite}\n",
            _judged_table(judged, differences),
            _verdict(judged, differences),
        ]
        parts += _rivals(judged, differences)
        parts += _phases(judged)
    if found.latency:
        parts += ["## Latency, teacher and student side by side in one process\n", _latency_table(found.latency)]
    parts += [
        "## Held-out episodes, open loop\n",
        f"{columns.meaning}\n",
        _rows(
            ("budget", "layers run", *(title for title, _ in columns.shown)),
            [
                (f"{r['budget']:g}", f"{r['share']:.1%}", *(f"{r[key]:.4f}" for _, key in columns.shown))
                for r in found.held_out
            ],
        ),
        "## What each layer of the teacher knows of the action\n",
        "Error of the layer's probe as a share of the action's variance: 1 knows only the average, 0 is the expert.\n",
        _rows([str(i) for i in range(len(found.probe_errors))], [[f"{e:.3f}" for e in found.probe_errors]]),
        f"Layers as they are best given up: {', '.join(map(str, found.order))}; the first and the last always run.\n",
    ]
    if picture:
        parts.append(f"![Success, losses, layers and probes]({PICTURE})\n")
    parts += ["## Commands\n", "\n".join(f"    {line}" for line in commands) + "\n"]
    return "\n".join(parts)


def _duration(seconds: float) -> str:
    """Of the last run; nothing for one that found all of its training done."""
    return f" The command, as run last, trained for {seconds / 60:.0f} min." if seconds >= 60 else ""


def _judged_table(judged: Sequence[Judged], differences: dict) -> str:
    rows = []
    for one in judged:
        body, (low, high) = one.body, one.body["ci95"]
        rows.append(
            (
                one.name,
                one.meaning,
                f"{body['success_rate']:.1%}",
                f"{low:.0%} … {high:.0%}",
                _points(differences[one.name]["teacher"]) if one.name in differences else "–",
                f"{body['decoder_flops_share']:.1%}",
                f"{body['layers_executed_mean']:.2f}",
                *(f"{body[k]['p50']:.1f} / {body[k]['p95']:.1f}" for k in ("decoder_ms", "step_ms")),
            )
        )
    first = judged[0].body
    what = f"{first['episodes']} episodes, seeds from {first['seed']}, the same for all."
    head = ("", "what runs", "success", "95 %", "to the teacher, points (95 %)", "decoder FLOPs", "layers")
    return f"{what} Milliseconds are p50 / p95.\n\n" + _rows((*head, "decoder ms", "step ms"), rows)


def _rivals(judged: Sequence[Judged], differences: dict) -> list[str]:
    """The student against each control under the same budget; nothing without controls."""
    by_name = {one.name: one.body for one in judged}
    rows = [
        (
            one.rival_of,
            one.name,
            _points(differences[one.name]["student"]),
            *(f"{by_name[name]['layers_executed_mean']:.2f}" for name in (one.rival_of, one.name)),
        )
        for one in judged
        if one.rival_of
    ]
    if not rows:
        return []
    said = "The student against each control on the same seeds. An interval that holds 0 does not tell the two apart."
    head = ("", "control", "student − control, points (95 %)", "layers of the student", "of the control")
    return [f"{said}\n", _rows(head, rows)]


def _points(apart: dict[str, float]) -> str:
    return f"{apart['points']:+.1f} ({apart['low']:+.1f} … {apart['high']:+.1f})"


def _phases(judged: Sequence[Judged]) -> list[str]:
    """Where the student spends its layers; nothing if it was not judged."""
    found = next((one.body.get("phases") for one in judged if one.name == "student"), None)
    if not found:
        return []
    rows = [(name, f"{of['steps']}", f"{of['decoder_share']:.1%}") for name, of in found.items()]
    return ["Share of the decoder by what the step is about:\n", _rows(("phase", "steps", "decoder"), rows)]


def _verdict(judged: Sequence[Judged], differences: dict) -> str:
    """The smallest budget tried that stays within two points, in one sentence."""
    students = [one for one in judged if one.name.startswith("student")]
    good = [one for one in students if differences[one.name]["teacher"]["points"] >= -2.0]
    if not good:
        return "No budget that was tried keeps the student within 2 points of the teacher.\n"
    least = min(good, key=lambda one: one.body["decoder_flops_share"])
    return (
        f"The smallest budget tried that stays within 2 points of the teacher is {least.body['budget']:g} "
        f"({least.body['decoder_flops_share']:.1%} of the decoder's FLOPs).\n"
    )


def _latency_table(latency: dict) -> str:
    rows = [
        (stage, *(_median_and_tail(latency, f"{stage}_ms_{way}") for way in ("full", "plan")), f"{1 / ratio:.2f} ×")
        for stage, ratio in (("decoder", latency["ratio"]), ("step", latency["step_ratio"]))
    ]
    return _rows(("p50 / p95, ms", "all layers", "student", "faster at p50"), rows) + (
        f"\n{latency['layers_executed']:.2f} of {latency['layers_total']} layers ran, so "
        f"{latency['layers_total'] / latency['layers_executed']:.2f} × would be ideal; the router took "
        f"{latency['router_share']:.1%} of a step. {latency['device']}, {latency['threads']} threads.\n"
    )


def _median_and_tail(latency: dict, name: str) -> str:
    return f"{latency[name]:.2f} / {latency[f'{name}_p95']:.2f}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _settings(args: argparse.Namespace) -> dict:
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key != "data"
    } | {"data": [str(path) for path in args.data]}


def _replace(path: Path, content: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(content)
    unfinished.replace(path)
