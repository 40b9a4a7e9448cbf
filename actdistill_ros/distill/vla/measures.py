"""What a published VLA loses without some of its layers: the order to give them up, and the finished student's
curve."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.distill import depth
from actdistill_ros.distill.vla.student import VlaStudent
from actdistill_ros.distill.vla.teacher import VlaTeacher

SAMPLES, CURVE_SAMPLES = 64, 256


@torch.no_grad()
def elimination_order(teacher: VlaTeacher, samples: int = SAMPLES, seed: int = 0) -> list[int]:
    """As `depth.elimination_order`; a layer's worth is how far, without it, what the head says is from what it says
    with all layers: divergence of the action words, or difference of the noise seen in the same actions."""
    pool, head, known = teacher.samples.training, teacher.head, []
    chosen = np.sort(np.random.default_rng(seed).choice(pool, min(samples, len(pool)), replace=False))
    for i, batch in enumerate(teacher.batches(chosen)):
        given = teacher.give(batch)
        draws = head.draw(batch, len(batch.ids), slice(None), (seed, i))
        known.append((batch, given, draws, teacher.features_under(None, given)))

    def change(plan: list[bool]) -> float:
        apart = [
            len(batch.ids) * head.terms(head.module, teacher.features_under(plan, given), whole, batch, draws)["output"]
            for batch, given, draws, whole in known
        ]
        return (sum(apart) / len(chosen)).item()

    return depth.eliminate(teacher.shape.layers, change, teacher.processes)


@torch.no_grad()
def held_out_curve(student: VlaStudent, budgets: list[float], limit: int = CURVE_SAMPLES) -> list[dict[str, float]]:
    """At each budget, on held-out episodes. share: of layers that ran; task, output: see `ActionHead.terms`; apart:
    mean absolute difference of actions to the teacher's, normalised units; error, teacher_error: the student's and the
    teacher's to the recorded ones; agreement: share of words (OpenVLA) or gripper decisions (CogACT) that are the
    teacher's."""
    teacher, head, found = student.teacher, student.teacher.head, {budget: [] for budget in budgets}
    for i, batch in enumerate(teacher.held_out(limit)):
        given = teacher.give(batch)
        draws = head.draw(batch, len(batch.ids), slice(None), (0, i))
        with student.trained.off():
            wanted = teacher.features_under(None, given)
        taught, recorded = head.say(head.module, wanted, batch), batch.actions.cpu().numpy()
        evidence = student.router.evidence(given.tokens, given.present)
        before = None
        for budget in budgets:
            gates = gates_at(student, evidence, budget)
            if before is None or not torch.equal(gates, before):  # nearby budgets often run the same layers
                _, own = student.run(given, gates)
                said = head.say(student.head, own, batch)
                row = {name: x.item() for name, x in head.terms(student.head, own, wanted, batch, draws).items()}
                row |= {"share": gates.mean().item(), "agreement": (said.chosen == taught.chosen).mean().item()}
                row |= {"apart": _apart(said.actions, taught.actions), "error": _apart(said.actions, recorded)}
                row |= {"teacher_error": _apart(taught.actions, recorded)}
            before = gates
            found[budget].append((len(batch.ids), row))
    return [{"budget": budget, **_mean(rows)} for budget, rows in found.items()]


def gates_at(student: VlaStudent, evidence: Tensor, budget: float) -> Tensor:
    """(B, L) as they are at run time. evidence: (B, L)."""
    router = student.router
    at, threshold = router.at(budget)
    scores = router.score(evidence, torch.full((len(evidence),), at, device=evidence.device))
    return ((scores > threshold) | router.always).float()


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _mean(rows: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Weighted by the number of samples of each."""
    total = sum(count for count, _ in rows)
    return {name: sum(count * row[name] for count, row in rows) / total for name in rows[0][1]}
