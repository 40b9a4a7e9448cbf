"""An OpenVLA checkpoint that was fine-tuned on LIBERO, ready to be judged there: nothing has to be told that the suite
does not say."""

from __future__ import annotations

from pathlib import Path

import torch

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.planning import RoutedPlan
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, layout, openvla_policy, student_folder
from actdistill_ros.policy.vla.openvla_policy import OpenVLASettings
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.suites.libero import preprocess, protocol

CAMERA = "agentview"


def load(folder: Path, suite: str) -> VlaPolicy:
    """Read with the statistics of that suite; frames come cropped and resized already.

    Raises ContractError if it was not trained on that suite, or is no OpenVLA.
    """
    made = layout.read(folder)
    if cogact_checkpoint.is_cogact(made):
        raise ContractError(f"{folder} is a CogACT run; on LIBERO only OpenVLA checkpoints have a published protocol.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    routed = student_folder.load(folder, made.shape, device)
    loaded = checkpoint.load(folder, suite, device=device)
    settings = OpenVLASettings(CAMERA, (preprocess.VIEW_PIXELS, preprocess.VIEW_PIXELS), protocol.PERIOD_S)
    planner, router = (RoutedPlan(*routed), routed[0]) if routed else (None, None)
    return openvla_policy.make(loaded, settings, planner, router)
