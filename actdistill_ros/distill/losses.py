"""What the student is trained on besides the task: the teacher's semantics, its chunks, and the budget.

Each function returns one value per decoder layer (L,) unless it says otherwise; `dual_stream` weighs and adds them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class StreamWeights:
    """alpha: semantic stream; beta: action stream; eta: relations within the semantic stream; gamma: how much later
    layers weigh more. A weight of 0 switches its term off."""

    alpha: float = 1.0
    beta: float = 1.0
    eta: float = 0.5
    gamma: float = 2.0


def alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """L_align = 1 − cos(s^S, s^T), mean over the batch; both (L, B, S)."""
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean(1)


def structure(student: Tensor, teacher: Tensor) -> Tensor:
    """L_struct: mean squared difference of the samples' cosine matrices; both (L, B, S).

    Raises ValueError for a single sample, which has no relations.
    """
    if student.shape[1] < 2:
        raise ValueError("the structure loss compares samples of a batch with each other: batch 1 is not enough")
    return (_cosines(student) - _cosines(teacher)).square().mean((1, 2))


def _cosines(s: Tensor) -> Tensor:
    unit = F.normalize(s.float(), dim=-1)
    return unit @ unit.transpose(1, 2)  # (L, B, B)


def action_stream(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """L_act = MSE(â^S, a*) + MSE(â^S, â^T) + MSE(â^S, â^S of the layer before, held fixed).

    student, teacher: (L, B, K, A) chunks that the layers' probes say; target: (B, K, A). The first layer has no third
    term: there is no layer before it.
    """
    student, teacher = student.float(), teacher.float()
    before = torch.cat([student[:1], student[:-1]]).detach()
    return sum((student - other).square().mean((1, 2, 3)) for other in (target, teacher, before))


def depth_weights(layers: int, gamma: float) -> Tensor:
    """w_l = (l / (L − 1))^γ, scaled to mean 1, for l = 0 … L − 1; (L,)."""
    share = torch.linspace(0, 1, layers) ** gamma if layers > 1 else torch.ones(1)
    return share / share.mean()


@dataclass(frozen=True)
class Layers:
    """What the heads read off every layer: semantic (L, B, S), chunks (L, B, K, A)."""

    semantic: Tensor
    chunks: Tensor


def dual_stream(student: Layers, teacher: Layers, target: Tensor, weights: StreamWeights) -> dict[str, Tensor]:
    """L_distill = mean_l w_l (α (L_align + η L_struct) + β L_act), by term, each a scalar to be added up.

    The mean, where the paper has the sum, keeps the weights independent of the decoder's depth. Terms that are
    switched off are missing.
    """
    w = depth_weights(len(student.chunks), weights.gamma).to(student.chunks.device)
    terms = {}
    if weights.alpha:
        terms["align"] = weights.alpha * (w * alignment(student.semantic, teacher.semantic)).mean()
    if weights.alpha and weights.eta:
        terms["relate"] = weights.alpha * weights.eta * (w * structure(student.semantic, teacher.semantic)).mean()
    if weights.beta:
        terms["act"] = weights.beta * (w * action_stream(student.chunks, teacher.chunks, target)).mean()
    return terms


def output(motion: Tensor, gripper: Tensor, teacher_motion: Tensor, teacher_gripper: Tensor) -> Tensor:
    """How far the student's chunk is from the teacher's: motion (B, K, 6) in normalised units, gripper (B, K) logits
    against the teacher's probabilities, less the teacher's own uncertainty so that 0 means equal; a scalar."""
    wanted = teacher_gripper.sigmoid()
    open_or_not = F.binary_cross_entropy_with_logits(gripper, wanted) - F.binary_cross_entropy_with_logits(
        teacher_gripper, wanted
    )
    return 4.0 * F.smooth_l1_loss(motion, teacher_motion, beta=0.1) + open_or_not


def compute_budget(gates: Tensor, budgets: Tensor, groups: int) -> Tensor:
    """Squared difference between the share of layers that run and the budget, a scalar.

    gates: (B, L); budgets: (B,), the same within each of `groups` equal parts of the batch. The mean over a group has
    to meet the budget, not every sample: a hard moment may use what an easy one leaves.
    """
    used = gates.mean(1).view(groups, -1).mean(1)
    return (used - budgets.view(groups, -1)[:, 0]).square().mean()
