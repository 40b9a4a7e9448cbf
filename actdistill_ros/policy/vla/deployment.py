"""How a published VLA meets this robot: `deployment.json` beside its weights says what its own files do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.policy import captured
from actdistill_ros.policy.planning import FixedPlan, Planner, RoutedPlan
from actdistill_ros.policy.vla import (
    checkpoint,
    cogact_checkpoint,
    cogact_policy,
    layout,
    openvla,
    openvla_policy,
    promise,
    quantised,
    statistics,
    student_folder,
    weights,
)
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.cogact_policy import CogACTSettings
from actdistill_ros.policy.vla.ensemble import EnsembleSettings
from actdistill_ros.policy.vla.layout import ROUTER, Layout
from actdistill_ros.policy.vla.openvla_policy import OpenVLASettings
from actdistill_ros.policy.vla.policy import VlaPolicy
from actdistill_ros.policy.vla.router import VlaRouter

FILE = layout.DEPLOYMENT
_EXAMPLE = '{"camera": "front", "frame": [480, 640], "period_s": 0.2, "statistics": "bridge_orig"}'
_PERIOD_S = 1e-3, 10.0  # wider than any arm's; milliseconds taken for seconds lie outside


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
    contract(folder)  # before billions of weights are read
    made, told = layout.read(folder), read(folder)
    planner, router = plans(made, told, device)
    way = capture(told.capture, device, folder / FILE)
    said = space(told, folder / FILE)
    if cogact_checkpoint.is_cogact(made):
        averaged = EnsembleSettings(told.ensemble) if told.ensemble else None
        settings = CogACTSettings(told.camera, told.frame, told.period_s, told.execute, said, averaged)
        run = cogact_checkpoint.load(folder, told.statistics, told.dtype, device, crop_area=told.crop_area)
        return cogact_policy.make(run, settings, planner, router, way)
    loaded = checkpoint.load(folder, told.statistics, told.dtype, device, told.crop_area)
    settings = OpenVLASettings(told.camera, told.frame, told.period_s, said)
    return openvla_policy.make(loaded, settings, planner, router, way)


def contract(folder: Path) -> Contract:
    """What `load` will promise, without reading a weight. Raises ContractError if the folder cannot be right."""
    made, told = layout.read(folder), read(folder)
    cogact = cogact_checkpoint.is_cogact(made)
    check_fits(told, made)
    known = statistics.read(made.folder, made.config)
    key = statistics.choose(known, told.statistics, made.folder)
    checkpoint.check_dimensions(known[key], key, made.folder)
    said = space(told, folder / FILE)
    chunk = cogact_checkpoint.chunk_of(made) if cogact and not told.ensemble else 1
    settings = OpenVLASettings(told.camera, told.frame, told.period_s, said)
    _, promised = promise.of(known, key, made.shape.image_size, settings, chunk, statistics.place(made.folder))
    return promised.executing(told.execute, str(folder))


def unfilled(folder: Path) -> VlaPolicy:
    """What `load` will return, without a weight: it plans and promises as that will, and cannot step.

    Raises ContractError for all that `load` refuses but weights that are not finite and too little memory.
    """
    made, told, promised = layout.read(folder), read(folder), contract(folder)
    planner, router = plans(made, told, "cpu")
    source = checkpoint.open_source(made)
    beside = checkpoint.read_beside(made, source, told.statistics, told.crop_area, None)
    model = openvla.unfilled(made.shape)
    weights.check(model, made.shape, source)
    empty = VlaCheckpoint(model=model, bins=None, **beside)
    return VlaPolicy(empty, openvla_policy.Speaker(empty), promised, convention("product"), planner, router)


def read(folder: Path) -> Deployment:
    """Raises ContractError if the file is missing, no JSON, or says anything that is not understood or out of range."""
    path = folder / FILE
    if not path.is_file():
        raise ContractError(
            f"{path} is missing: a published model's files do not say which camera it sees here, nor how fast its "
            f"actions follow. Write it, for example {_EXAMPLE}."
        )
    body = layout.read_json(path)
    if not isinstance(body, dict):
        raise ContractError(f"{path} is not a deployment: expected an object, for example {_EXAMPLE}.")
    known = {field.name: field for field in fields(Deployment)}
    if unknown := sorted(body.keys() - known):
        raise ContractError(f"{path} has {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    for name, field in known.items():
        fits, expected = _KEYS[name]
        if name not in body and field.default is MISSING:
            raise ContractError(f"{path}: {name} is missing, expected {expected}; for example {_EXAMPLE}.")
        if name in body and not fits(body[name]) and not (body[name] is None and field.default is None):
            raise ContractError(f"{path}: {name} is {json.dumps(body[name])}, expected {expected}.")
    lists = {name: tuple(body[name]) for name in ("frame", "layers") if body.get(name) is not None}
    return Deployment(**{**body, **lists})


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_frame(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _are_layers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_count(layer, 0) for layer in value)


_DTYPES = (*weights.DTYPES, *quantised.KINDS)
_KEYS: dict[str, tuple[Callable[[object], bool], str]] = {  # key: whether a value may be right, what is expected
    "camera": (_is_word, 'a camera\'s name, as "front"'),
    "frame": (_is_frame, "[height, width] of the camera's frames, whole pixels above 0"),
    "period_s": (
        lambda value: _is_number(value, *_PERIOD_S),
        f"seconds between two actions, a number in {_PERIOD_S[0]:g} … {_PERIOD_S[1]:g}",
    ),
    "statistics": (_is_word, 'the key of its statistics, as "bridge_orig", or null where there is only one'),
    "action_space": (_is_word, 'the name of an action space, as "product", or null for that of its statistics'),
    "layers": (_are_layers, "a list of one or more numbers of layers, 0 for the first, or null for all"),
    "dtype": (lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    "crop_area": (
        lambda value: _is_number(value, 0.0, 1.0) and value > 0,
        "a share of the frame's area, a number above 0 and up to 1",
    ),
    "execute": (_is_count, "how many actions of a chunk run, a whole number from 1 on"),
    "ensemble": (_is_count, "how many chunks are averaged, a whole number from 1 on, or null for none"),
    "capture": (lambda value: value in captured.WAYS, f"one of {', '.join(captured.WAYS)}, or null for none"),
}


def space(told: Deployment, path: Path) -> Convention | None:
    """What its actions are; None for a published data set's. Raises ContractError if nobody knows that name."""
    if told.action_space is None:
        return None
    try:
        return convention(told.action_space)
    except ContractError as error:
        raise ContractError(f"{path}: action_space: {error}") from error


def check_fits(told: Deployment, made: Layout) -> None:
    """Raises ContractError if it names chunks or layers that this model does not have."""
    _check_actions(told, cogact_checkpoint.is_cogact(made), made.folder / FILE)
    _check_layers(told, made)


def _check_actions(told: Deployment, cogact: bool, path: Path) -> None:
    if not cogact and (told.execute != 1 or told.ensemble):
        raise ContractError(
            f"{path}: OpenVLA makes one action per step; leave out execute and ensemble, or set execute to 1."
        )
    if told.ensemble and told.execute != 1:
        raise ContractError(f"{path}: an ensemble makes one action per step; set execute to 1, not {told.execute}.")


def _check_layers(told: Deployment, made: Layout) -> None:
    depth = made.shape.decoder.layers
    if told.layers is not None and max(told.layers) >= depth:
        raise ContractError(
            f"{made.folder / FILE}: layers {sorted(told.layers)}; expected one or more of 0 … {depth - 1}, which the "
            "decoder has."
        )


def capture(way: str | None, device: str, path: Path) -> captured.Capture | None:
    """How frequent plans are captured. Raises ContractError if that cannot be on this device."""
    if way is None:
        return None
    if way == "cuda-graph" and not device.startswith("cuda"):
        raise ContractError(
            f"{path}: capture by cuda-graph needs a GPU, not {device}; leave it out, or set device:=cuda."
        )
    return captured.by_name(way)


def plans(made: Layout, told: Deployment, device: str) -> tuple[Planner, VlaRouter | None]:
    """What chooses the layers of a step: the router if the folder has one, else the deployment."""
    path = made.folder / FILE
    routed = student_folder.load(made.folder, made.shape, device)
    if routed and told.layers is not None:
        raise ContractError(
            f"{path} fixes layers {list(told.layers)}, and {made.folder / ROUTER} chooses them in each step. Take "
            "layers out of the one, or the router's files out of the folder."
        )
    if routed:
        return RoutedPlan(*routed), routed[0]
    depth = made.shape.decoder.layers
    return FixedPlan([told.layers is None or i in told.layers for i in range(depth)]), None
