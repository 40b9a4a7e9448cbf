"""The rivals of a student: the same share of layers, chosen in simpler ways, or taught with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actdistill_ros.distill import depth
from actdistill_ros.distill.losses import StreamWeights
from actdistill_ros.distill.student import StudentSettings

NAMES = ("random", "static", "early-exit", "no-graph", "no-action", "no-routing")
TASK_ONLY = StreamWeights(alpha=0.0, beta=0.0)


@dataclass(frozen=True)
class Control:
    """trained: has weights of its own, else it runs the student's; graph: heads read the graph, else the mean."""

    name: str
    meaning: str
    settings: StudentSettings
    trained: bool = True
    graph: bool = True


def chosen(asked: Sequence[str] | None) -> tuple[str, ...]:
    """None: no controls; no name: all."""
    return () if asked is None else tuple(asked) or NAMES


def make(names: Sequence[str], order: Sequence[int], layers: int, student: StudentSettings) -> list[Control]:
    """The controls of a student, trained for as many steps on the same batches with the same rates."""
    static = depth.static_plan(order, layers, student.budget)
    early = depth.exit_plan(layers, student.budget)
    recovery = replace(student, streams=TASK_ONLY, output=0.0)
    no_action = replace(student, streams=replace(student.streams, beta=0.0))
    every = {
        "random": Control(
            "random", "the student's weights, layers drawn at random in each step", student, trained=False
        ),
        "static": Control(
            "static",
            f"best fixed layers ({_list(static)}), fine-tuned on the task alone",
            replace(recovery, plan=static),
        ),
        "early-exit": Control(
            "early-exit",
            f"the first layers only ({_list(early)}), fine-tuned on the task alone",
            replace(recovery, plan=early),
        ),
        "no-graph": Control(
            "no-graph", "the student with the mean over tokens instead of the graph", student, graph=False
        ),
        "no-action": Control("no-action", "the student without the action stream", no_action),
        "no-routing": Control(
            "no-routing", f"the student's teaching with fixed layers ({_list(static)})", replace(student, plan=static)
        ),
    }
    return [every[name] for name in names]


def _list(plan: Sequence[bool]) -> str:
    return ",".join(str(i) for i, runs in enumerate(plan) if runs)
