"""How a published VLA meets this robot: `deployment.json` beside its weights says what its own files do not."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.policy import captured
from actdistill_ros.policy.planning import FixedPlan, Planner, RoutedPlan
from actdistill_ros.policy.vla import (
    checkpoint,
    cogact_checkpoint,
    cogact_policy,
    layout,
    openvla_policy,
    promise,
    statistics,
    student_folder,
)
from actdistill_ros.policy.vla.cogact_policy import CogACTSettings
from actdistill_ros.policy.vla.ensemble import EnsembleSettings
from actdistill_ros.policy.vla.layout import ROUTER, Layout
from actdistill_ros.policy.vla.openvla_policy import OpenVLASettings
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.policy.vla.router import VlaRouter

FILE = layout.DEPLOYMENT
_EXAMPLE = '{"camera": "front", "frame": [480, 640], "period_s": 0.2, "statistics": "bridge_orig"}'


@dataclass(frozen=True)
class Deployment:
    """camera: name of the one that it sees; frame: (height, width) of its frames; period_s: between two actions.

    statistics: key to un-normalise with; None if there is only one. action_space: name of what its actions are then;
    None for a published data set's. layers: numbers of the decoder layers that run in every step; None for all.
    crop_area: see `VisionInput`. execute, ensemble: CogACT's; actions run of a chunk, chunks averaged. capture: how the
    decoder's frequent plans are captured, one of `captured.WAYS`; None for not at all.
    """

    camera: str
    frame: tuple[int, int]
    period_s: float
    statistics: str | None = None
    action_space: str | None = None
    layers: tuple[int, ...] | None = None
    dtype: str = "bfloat16"
    crop_area: float = 1.0
    execute: int = 1
    ensemble: int | None = None
    capture: str | None = None


def load(folder: Path, device: str = "cpu") -> VlaPolicy:
    """Raises ContractError if the folder is not a whole checkpoint with a fitting deployment.json and, if it has one, a
    fitting router."""
    made, told = layout.read(folder), read(folder)
    planner, router = _plans(made, told, device)
    capture = _capture(told.capture, device, folder / FILE)
    space = convention(told.action_space) if told.action_space else None
    if cogact_checkpoint.is_cogact(made):
        averaged = EnsembleSettings(told.ensemble) if told.ensemble else None
        settings = CogACTSettings(told.camera, told.frame, told.period_s, told.execute, space, averaged)
        run = cogact_checkpoint.load(folder, told.statistics, told.dtype, device, crop_area=told.crop_area)
        return cogact_policy.make(run, settings, planner, router, capture)
    if told.execute != 1 or told.ensemble:
        raise ContractError(
            f"{folder / FILE}: OpenVLA makes one action per step; leave out execute and ensemble, or set execute to 1."
        )
    loaded = checkpoint.load(folder, told.statistics, told.dtype, device, told.crop_area)
    settings = OpenVLASettings(told.camera, told.frame, told.period_s, space)
    return openvla_policy.make(loaded, settings, planner, router, capture)


def contract(folder: Path) -> Contract:
    """What `load` will promise, without reading a weight. Raises ContractError if the folder cannot be right."""
    made, told = layout.read(folder), read(folder)
    known = statistics.read(made.folder, made.config)
    key = statistics.choose(known, told.statistics, made.folder)
    space = convention(told.action_space) if told.action_space else None
    chunk = cogact_checkpoint.chunk_of(made) if cogact_checkpoint.is_cogact(made) and not told.ensemble else 1
    settings = OpenVLASettings(told.camera, told.frame, told.period_s, space)
    _, promised = promise.of(known, key, made.shape.image_size, settings, chunk)
    return promised.executing(told.execute, str(folder))


def read(folder: Path) -> Deployment:
    """Raises ContractError if the file is missing or says anything that is not understood."""
    path = folder / FILE
    if not path.is_file():
        raise ContractError(
            f"{path} is missing: a published model's files do not say which camera it sees here, nor how fast its "
            f"actions follow. Write it, for example {_EXAMPLE}."
        )
    try:
        body = json.loads(path.read_text())
        names = {field.name for field in fields(Deployment)}
        if unknown := sorted(body.keys() - names):
            raise ContractError(f"{path} has {', '.join(unknown)}; known are {', '.join(sorted(names))}.")
        lists = {name: tuple(map(int, body[name])) for name in ("frame", "layers") if body.get(name) is not None}
        told = Deployment(**{**body, **lists})
    except (json.JSONDecodeError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{path} is not a deployment ({error}); expected for example {_EXAMPLE}.") from error
    if len(told.frame) != 2 or min(told.frame) < 1:
        raise ContractError(f"{path}: frame is {list(told.frame)}, expected [height, width] of the camera's frames.")
    if not 0.0 < told.crop_area <= 1.0:
        raise ContractError(f"{path}: crop_area is {told.crop_area}, expected a share of the frame's area, 0 … 1.")
    return told


def _capture(way: str | None, device: str, path: Path) -> captured.Capture | None:
    if way is None:
        return None
    if way == "cuda-graph" and not device.startswith("cuda"):
        raise ContractError(
            f"{path}: capture by cuda-graph needs a GPU, not {device}; leave it out, or set device:=cuda."
        )
    try:
        return captured.by_name(way)
    except ValueError as error:
        raise ContractError(f"{path}: {error}.") from error


def _plans(made: Layout, told: Deployment, device: str) -> tuple[Planner, VlaRouter | None]:
    """What chooses the layers of a step: the router if the folder has one, else the deployment."""
    path, depth = made.folder / FILE, made.shape.decoder.layers
    routed = student_folder.load(made.folder, made.shape, device)
    if routed and told.layers is not None:
        raise ContractError(
            f"{path} fixes layers {list(told.layers)}, and {made.folder / ROUTER} chooses them in each step. Take "
            "layers out of the one, or the router's files out of the folder."
        )
    if routed:
        return RoutedPlan(*routed), routed[0]
    chosen = set(range(depth) if told.layers is None else told.layers)
    if not chosen or not chosen <= set(range(depth)):
        raise ContractError(
            f"{path}: layers {sorted(chosen)}; expected one or more of 0 … {depth - 1}, which the decoder has."
        )
    return FixedPlan([i in chosen for i in range(depth)]), None
