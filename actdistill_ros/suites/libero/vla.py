"""A published model, or a student of one, ready to be judged on LIBERO: what the suite does not say, its
deployment.json may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.policy.vla import (
    checkpoint,
    cogact_checkpoint,
    cogact_policy,
    deployment,
    layout,
    openvla_policy,
    statistics,
)
from actdistill_ros.policy.vla.cogact_policy import CogACTSettings
from actdistill_ros.policy.vla.deployment import Deployment
from actdistill_ros.policy.vla.ensemble import EnsembleSettings
from actdistill_ros.policy.vla.layout import Layout
from actdistill_ros.policy.vla.openvla_policy import OpenVLASettings
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.suites.libero import preprocess, protocol

CAMERA, FRAME = "agentview", (preprocess.VIEW_PIXELS, preprocess.VIEW_PIXELS)
PUBLISHED = "OpenVLA's"
NONE_PUBLISHED = "none was published for CogACT: OpenVLA's pictures, steps and seeds; chunks as deployment.json says"


def load(folder: Path, suite: str) -> tuple[VlaPolicy, Callable[[np.ndarray], np.ndarray], str]:
    """The policy, what prepares frames for it, and whose protocol that is.

    It is read with that suite's statistics. Of a deployment.json its dtype, layers, capture, action space, crop, chunks
    and averaging hold; camera and frame are LIBERO's. Raises ContractError if the folder has no statistics of the suite
    or was made for another rate, crop or other statistics.
    """
    made = layout.read(folder)
    told = _told(made, suite)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    planner, router = deployment.plans(made, told, device)
    capture = deployment.capture(told.capture, device, folder / deployment.FILE)
    space = deployment.space(told, folder / deployment.FILE)
    prepare = partial(preprocess.view, crop=told.crop_area < 1.0)  # frames come cropped and resized already
    if not cogact_checkpoint.is_cogact(made):
        loaded = checkpoint.load(folder, suite, told.dtype, device)
        settings = OpenVLASettings(CAMERA, FRAME, told.period_s, space)
        return openvla_policy.make(loaded, settings, planner, router, capture), prepare, PUBLISHED
    run = cogact_checkpoint.load(folder, suite, told.dtype, device)
    averaged = EnsembleSettings(told.ensemble) if told.ensemble else None
    chunks = CogACTSettings(CAMERA, FRAME, told.period_s, told.execute, space, averaged)
    return cogact_policy.make(run, chunks, planner, router, capture), prepare, NONE_PUBLISHED


def _key(known: Mapping[str, Statistics], suite: str, folder: Path) -> str:
    try:
        return statistics.choose(known, suite, folder)
    except ContractError as error:
        raise ContractError(
            f"{error} On LIBERO a checkpoint acts with the statistics of the suite that it was trained on: give a "
            f"fine-tune on {suite}, or a student of one."
        ) from error


def _told(made: Layout, suite: str) -> Deployment:
    """What deployment.json says, if there is one; else what OpenVLA's fine-tunes were published with."""
    known, path = statistics.read(made.folder, made.config), made.folder / deployment.FILE
    key = _key(known, suite, made.folder)
    if not path.is_file():
        return Deployment(CAMERA, FRAME, protocol.PERIOD_S, crop_area=preprocess.CROP_AREA)
    told = deployment.read(made.folder)
    deployment.check_fits(told, made)
    if abs(told.period_s - protocol.PERIOD_S) > 1e-6:
        raise ContractError(
            f"{path}: period_s is {told.period_s:g}; LIBERO acts every {protocol.PERIOD_S:g} s. Give a checkpoint that "
            "was trained on LIBERO's data, or correct period_s if this one was."
        )
    if told.crop_area not in (preprocess.CROP_AREA, 1.0):
        raise ContractError(
            f"{path}: crop_area is {told.crop_area:g}; LIBERO's pictures are cropped to {preprocess.CROP_AREA:g} of "
            "their area as published, or to 1 for a checkpoint that was trained without random crops."
        )
    if told.statistics and statistics.choose(known, told.statistics, made.folder) != key:
        raise ContractError(
            f"{path}: statistics are {told.statistics}, so its actions are not those of {suite}. Give a checkpoint "
            "that was trained on this suite."
        )
    return told
