"""Which layers of the teacher can be missed: the order that the router starts from, and the best fixed plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from actdistill_ros.distill import losses
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.teacher import Given, Teacher, answer
from actdistill_ros.policy.model import Prediction

SAMPLES = 256


@torch.no_grad()
def elimination_order(teacher: Teacher, samples: int = SAMPLES, seed: int = 0) -> list[int]:
    """Layers in the order in which they are best given up: each time the one whose absence, along with those given up
    before, changes the teacher's chunks least. First and last layer are never given up and are not in the list.

    Processes share the candidates, not the samples, so that the costs are the very numbers of one process."""
    pool = teacher.samples.training
    chosen = np.random.default_rng(seed).choice(pool, min(samples, len(pool)), replace=False)
    given = teacher.give(teacher.batcher.at(chosen).to(teacher.device))
    whole = teacher.answer(teacher.trace(given), given)
    return eliminate(teacher.model.config.layers, partial(_change, teacher, given, whole), teacher.processes)


def eliminate(layers: int, change: Callable[[list[bool]], float], processes: Processes) -> list[int]:
    """The order of `elimination_order`; change: how far what is said under a plan is from what all layers say."""
    plan, order = [True] * layers, []
    together = processes.split  # no process can run layers that are split while the others run other ones
    mine = slice(None) if together else slice(processes.index, None, processes.count)
    while candidates := [i for i in range(1, layers - 1) if plan[i]]:
        if len(candidates) == 1:  # nothing to choose between
            return [*order, *candidates]
        own = {c: change([p and i != c for i, p in enumerate(plan)]) for c in candidates[mine]}
        costs = {c: cost for part in processes.every(own) for c, cost in part.items()}
        order.append(min(candidates, key=lambda c: costs[c]))
        plan[order[-1]] = False
    return order


def _change(teacher: Teacher, given: Given, whole: Prediction, plan: Sequence[bool]) -> float:
    """How far the teacher's chunks under a plan are from those of all its layers, as in `losses.output`."""
    gates = torch.tensor(plan, dtype=torch.float32, device=teacher.device).expand(len(given.tokens), -1)
    with teacher.precision():
        less = answer(teacher.model, teacher.model.decoder.trace(given.tokens, given.present, gates), given)
    return losses.output(less.motion, less.gripper, whole.motion, whole.gripper).item()


def places(order: Sequence[int], layers: int) -> torch.Tensor:
    """The budget at which each layer becomes worth running, (L,): the last to be given up is the first to come back."""
    ranked = [0, layers - 1, *reversed(order)]
    place = torch.empty(layers)
    place[ranked] = (torch.arange(layers) + 0.5) / layers
    return place


def static_plan(order: Sequence[int], layers: int, budget: float) -> tuple[bool, ...]:
    """The best fixed plan of a budget, rounded up to whole layers: a control is never given less than the student."""
    dropped = set(order[: layers - layers_within(budget, layers)])
    return tuple(i not in dropped for i in range(layers))


def exit_plan(layers: int, budget: float) -> tuple[bool, ...]:
    """The first layers only, as many as `static_plan` runs."""
    return tuple(i < layers_within(budget, layers) for i in range(layers))


def layers_within(budget: float, layers: int) -> int:
    """Whole layers of a budget, rounded up. Raises DistillError if there is no room for the first and the last."""
    count = int(np.ceil(budget * layers - 1e-6))
    if budget * layers < 2 - 1e-6:
        raise DistillError(
            f"budget {budget:g} of {layers} layers is less than the first and the last: give {2 / layers:.2f} or more"
        )
    return count
