"""An OpenVLA checkpoint that was fine-tuned on LIBERO, ready to be judged there: nothing has to be told that the suite does not say."""

from __future__ import annotations

from pathlib import Path

import torch

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.planning import Plan
from actdistill_ros.policy.vla import checkpoint, layout
from actdistill_ros.policy.vla.openvla_policy import OpenVLAPolicy, OpenVLASettings
from actdistill_ros.policy.vla.sources import PrismaticFile
from actdistill_ros.suites.libero import preprocess, protocol

CAMERA = "agentview"


def load(folder: Path, suite: str, plan: str, budget: float | None) -> OpenVLAPolicy:
    """Read with the statistics of that suite; frames come cropped and resized already. plan: `router` for all layers, or
    the layers that run in every step: 0,1,2.

    Raises ContractError if it was not trained on that suite, is no OpenVLA, or has no such layers.
    """
    made = layout.read(folder)
    if made.prismatic and PrismaticFile(made.prismatic).others:
        raise ContractError(f"{folder} is a CogACT run; on LIBERO only OpenVLA checkpoints have a published protocol.")
    executed = chosen(plan, made.shape.decoder.layers)
    share = sum(executed) / len(executed)
    if budget is not None and abs(budget - share) > 1e-3:
        raise ContractError(
            f"{folder} has no router and runs {share:.3g} of its decoder in every step; --budget {budget:g} cannot be met. "
            "Name the layers instead: --plan 0,1,2"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(folder, suite, device=device)
    settings = OpenVLASettings(CAMERA, (preprocess.VIEW_PIXELS, preprocess.VIEW_PIXELS), protocol.PERIOD_S)
    fixed = Plan(tuple(map(float, executed)), executed)
    return OpenVLAPolicy(loaded, settings, lambda tokens: fixed, share)


def chosen(plan: str, total: int) -> tuple[bool, ...]:
    """Which of `total` layers run. Raises ContractError for anything but `router` and numbers of layers."""
    words = plan.split(",")
    if plan == "router":
        return (True,) * total
    if not all(word.isdecimal() and int(word) < total for word in words):
        raise ContractError(
            f"--plan {plan}: a published checkpoint has no router; name layers of 0 … {total - 1}, as in 0,1,2"
        )
    return tuple(str(i) in words for i in range(total))
