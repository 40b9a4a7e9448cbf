"""What the policy is trained on: motion, gripper, and where things are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from actdistill_ros.policy.model import METRES_TO_UNITS, Prediction

TRANSITION_WEIGHT = 5.0
SCENE_WEIGHT, FOCUS_WEIGHT = 2.0, 2.0


@dataclass(frozen=True)
class Losses:
    """total: scalar; parts: what it is made of, detached, by name."""

    total: Tensor
    parts: dict[str, Tensor]


def compute(prediction: Prediction, chunk: Tensor, aux: Tensor, opening: Tensor, executed: int) -> Losses:
    """chunk: (B, K, 7) expert's next actions, normalised; aux: (B, A) places [m]; opening: (B,) measured gripper
    opening.

    Steps beyond `executed` count half: they only help the first ones. Places that the data do not tell are NaN in `aux`
    and teach nothing; where none is told, `parts` has no entry for them.
    """
    steps = torch.full((chunk.shape[1],), 0.5, device=chunk.device)
    steps[:executed] = 1.0
    motion = (F.smooth_l1_loss(prediction.motion, chunk[..., :6], beta=0.1, reduction="none") * steps[:, None]).mean()
    gripper = (gripper_loss(prediction.gripper, chunk[..., 6], opening) * steps).mean()
    seen = prediction.scene.shape[1]
    total, parts = 4.0 * motion + gripper, {"motion": motion, "gripper": gripper}
    places = (("scene_mm", prediction.scene, aux[:, :seen]), ("focus_mm", prediction.focus, aux[:, seen:]))
    for (name, said, there), weight in zip(places, (SCENE_WEIGHT, FOCUS_WEIGHT), strict=True):
        known = there.isfinite()  # (B, A')
        if known.any():
            loss = F.l1_loss(said[known], there[known] * METRES_TO_UNITS)
            total, parts[name] = total + weight * loss, loss * 100
    return Losses(total, {name: value.detach() for name, value in parts.items()})


def gripper_loss(logits: Tensor, target: Tensor, opening: Tensor) -> Tensor:
    """Cross-entropy (B, K), heavier where the gripper has to change: those moments are rare and decide the grasp."""
    changes = (target - (opening > 0.8).float()[:, None]).abs() > 0.5  # (B, K)
    weight = torch.where(changes, TRANSITION_WEIGHT, 1.0)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
