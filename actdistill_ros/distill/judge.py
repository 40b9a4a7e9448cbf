"""Closed-loop success of student, teacher and controls on the same seeds, each evaluation in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from actdistill_ros.distill.controls import Control
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.policy import loading

SUITES = ("tabletop", "tabletop-hard")  # of the simulator, which is not imported where students are trained


@dataclass(frozen=True)
class Judged:
    """name, meaning: for the report; body: what `actdistill eval --json` wrote; rival_of: of a control, the name of the
    student under the same budget."""

    name: str
    meaning: str
    body: dict
    rival_of: str = ""


@dataclass(frozen=True)
class Case:
    """One evaluation; words: for `actdistill eval`, besides checkpoint, episodes and seed."""

    name: str
    meaning: str
    folder: Path
    words: tuple[str, ...] = ()
    rival_of: str = ""


def check(args: argparse.Namespace) -> None:
    """Before anything is trained: raises ContractError if the teacher is to be judged in a world that it was not made
    for."""
    if args.eval_episodes and find_spec("mujoco") is not None:
        from actdistill_ros.trials import candidate

        candidate.check_world(loading.contract(args.teacher), loading.identity(args.teacher))


def all_of(args: argparse.Namespace, rivals: Sequence[Control], work: Path) -> dict[str, list[Judged]]:
    """By suite: teacher first, then the student, its other budgets, and the controls; empty if nothing is to be judged,
    or if this machine has no simulator. Evaluations that an earlier run finished are not repeated."""
    if not args.eval_episodes:
        return {}
    if find_spec("mujoco") is None:
        print("no simulator here (module mujoco), so nothing is judged; run `actdistill eval` where there is one.")
        return {}
    every = cases(args, rivals, work)
    return {suite: [_judge(case, suite, args, work / "eval") for case in every] for suite in args.eval_suites}


def cases(args: argparse.Namespace, rivals: Sequence[Control], work: Path) -> list[Case]:
    """A control is never judged at a budget that the student is not judged at."""
    budgets = sorted({*args.eval_budgets, *(one.budget for one in rivals)} - {args.budget})
    found = [
        Case("teacher", "all layers", args.teacher),
        Case("student", f"routed, budget {args.budget:g}", args.out),
        *(Case(_student(b, args), f"the same student, budget {b:g}", args.out, ("--budget", str(b))) for b in budgets),
    ]
    for one in rivals:
        folder = args.out if one.weights is None else work / "controls" / one.weights
        found.append(Case(one.name, one.meaning, folder, one.words, _student(one.budget, args)))
    return found


def _student(budget: float, args: argparse.Namespace) -> str:
    return "student" if budget == args.budget else f"student at {budget:g}"


def _judge(case: Case, suite: str, args: argparse.Namespace, folder: Path) -> Judged:
    return Judged(case.name, case.meaning, _evaluate(case, suite, args, folder), case.rival_of)


def latency(args: argparse.Namespace, seconds: float = 15.0) -> dict:
    """Teacher and student side by side in one process, by `actdistill bench depth`; empty where nothing is judged."""
    if not args.eval_episodes or find_spec("mujoco") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "depth.json"
        words = ["--checkpoint", str(args.out), "--seconds", str(seconds), "--threads", "1", "--json", str(path)]
        code = subprocess.run([sys.executable, "-m", "actdistill_ros.cli", "bench", "depth", *words]).returncode
        if code:
            raise DistillError(f"actdistill bench depth {' '.join(words)} ended with exit code {code}")
        return json.loads(path.read_text())


def _evaluate(case: Case, suite: str, args: argparse.Namespace, folder: Path) -> dict:
    words = ["--episodes", str(args.eval_episodes), "--seed", str(args.eval_seed), *case.words]
    words += [] if suite == "tabletop" else ["--suite", suite]
    # Named by the weights' content, so that an evaluation of other weights is never taken for this one's.
    weights = loading.identity(case.folder).partition("@")[2]
    path = folder / f"{weights}{'_'.join(words).replace('--', '')}.json"
    if not path.exists():
        print(f"judging {case.name} on {suite}: {case.meaning}", flush=True)
        command = [sys.executable, "-m", "actdistill_ros.cli", "eval", "--checkpoint", str(case.folder), *words]
        unfinished = path.with_suffix(".unfinished")
        code = subprocess.run([*command, "--json", str(unfinished)]).returncode
        if code:
            raise DistillError(f"the evaluation of {case.name} ended with exit code {code}: {' '.join(command)}")
        unfinished.replace(path)
    return json.loads(path.read_text())
