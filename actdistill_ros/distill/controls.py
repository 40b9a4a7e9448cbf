"""The rivals of a student: the same share of layers, chosen in simpler ways, or taught with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actdistill_ros.distill import depth
from actdistill_ros.distill.losses import StreamWeights
from actdistill_ros.distill.student import StudentSettings

NAMES = ("random", "static", "early-exit", "no-graph", "no-action", "no-routing")
FIXED = ("static", "early-exit", "no-routing")  # one plan each, so that another budget is another training
TASK_ONLY = StreamWeights(alpha=0.0, beta=0.0)


@dataclass(frozen=True)
class Control:
    """name: for the report; budget: share of layers that it is compared at; weights: name of the training that made its
    weights, None for the student's own; graph: heads read the graph, else the mean; words: for `actdistill eval`."""

    name: str
    meaning: str
    settings: StudentSettings
    budget: float
    weights: str | None
    graph: bool = True
    words: tuple[str, ...] = ()


def chosen(asked: Sequence[str] | None) -> tuple[str, ...]:
    """None: no controls; no name: all."""
    return () if asked is None else tuple(asked) or NAMES


def make(
    names: Sequence[str], order: Sequence[int], layers: int, student: StudentSettings, budgets: Sequence[float] = ()
) -> list[Control]:
    """The controls of a student at its own budget and at `budgets`, trained for as many steps on the same batches with
    the same rates. Raises DistillError if a budget is less than the first and the last layer."""
    others = [budget for budget in dict.fromkeys(budgets) if budget != student.budget]
    return [_one(name, order, layers, student, budget) for budget in (student.budget, *others) for name in names]


def trainings(controls: Sequence[Control]) -> dict[str, Control]:
    """Each training that the controls need, once, by the name of its weights."""
    first: dict[str, Control] = {}
    for control in controls:
        if control.weights is not None:
            first.setdefault(control.weights, control)
    return first


def _one(name: str, order: Sequence[int], layers: int, student: StudentSettings, budget: float) -> Control:
    own = budget == student.budget
    label, at = (name, ()) if own else (f"{name} at {budget:g}", ("--budget", str(budget)))
    static, early = depth.static_plan(order, layers, budget), depth.exit_plan(layers, budget)
    recovery = replace(student, budget=budget, streams=TASK_ONLY, output=0.0)
    plan, settings, meaning = {
        "random": (None, student, "the student's weights, layers drawn at random in each step"),
        "static": (static, recovery, f"best fixed layers ({_list(static)}), fine-tuned on the task alone"),
        "early-exit": (early, recovery, f"the first layers only ({_list(early)}), fine-tuned on the task alone"),
        "no-graph": (None, student, "the student with the mean over tokens instead of the graph"),
        "no-action": (
            None,
            replace(student, streams=replace(student.streams, beta=0.0)),
            "the student without the action stream",
        ),
        "no-routing": (
            static,
            replace(student, budget=budget),
            f"the student's teaching with fixed layers ({_list(static)})",
        ),
    }[name]
    if name == "random":
        return Control(label, meaning, settings, budget, None, words=("--plan", "random", *at))
    if plan is not None:  # its checkpoint has no other plan, so evaluation needs no budget
        return Control(
            label, meaning, replace(settings, plan=plan, recent=0), budget, name if own else f"{name}-{budget:g}"
        )
    return Control(label, meaning, settings, budget, name, graph=name != "no-graph", words=at)


def _list(plan: Sequence[bool]) -> str:
    return ",".join(str(i) for i, runs in enumerate(plan) if runs)
