"""How a published VLA meets this robot: `deployment.json` beside its weights says what its own files do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.policy.planning import Plan
from actdistill_ros.policy.runtime import StepResult
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, layout
from actdistill_ros.policy.vla.cogact_policy import CogACTPolicy, CogACTSettings
from actdistill_ros.policy.vla.ensemble import EnsembleSettings
from actdistill_ros.policy.vla.openvla_policy import OpenVLAPolicy, OpenVLASettings
from actdistill_ros.policy.vla.sources import PrismaticFile

FILE = "deployment.json"
_EXAMPLE = '{"camera": "front", "frame": [480, 640], "period_s": 0.2, "statistics": "bridge_orig"}'


@dataclass(frozen=True)
class Deployment:
    """camera: name of the one that it sees; frame: (height, width) of its frames; period_s: between two actions.

    statistics: key to un-normalise with; None if there is only one. action_space: name of what its actions are then;
    None for a published data set's. layers: numbers of the decoder layers that run in every step; None for all.
    crop_area: see `VisionInput`. execute, ensemble: CogACT's; actions run of a chunk, chunks averaged.
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


class VlaRuntime:
    """A published VLA as the inference node runs it. Used from one thread at a time."""

    def __init__(self, policy: OpenVLAPolicy | CogACTPolicy, budget: float) -> None:
        self._policy, self.budget = policy, budget

    @property
    def contract(self) -> Contract:
        return self._policy.contract

    @property
    def checkpoint_id(self) -> str:
        return self._policy.checkpoint_id

    def step(self, observation: Observation) -> StepResult:
        return self._policy.step(observation)

    def reset(self) -> None:
        """Another episode begins; OpenVLA keeps nothing of one."""
        if isinstance(self._policy, CogACTPolicy):
            self._policy.reset()

    def set_budget(self, budget: float | None) -> None:
        """None: what it was deployed with. Raises ContractError for any other: it runs the same layers in each step."""
        if budget is not None and abs(budget - self.budget) > 1e-3:
            raise ContractError(
                f"{self.checkpoint_id} runs the same {self.budget:.3g} of its decoder in every step; budget {budget:g} "
                f"cannot be met. Set layers in {FILE}."
            )

    def unseen(self, instruction: str) -> list[str]:
        """Nothing: what it was trained on is not listed in its files."""
        return []


def load(folder: Path, device: str = "cpu") -> VlaRuntime:
    """Raises ContractError if the folder is not a whole checkpoint with a fitting deployment.json."""
    made, told = layout.read(folder), read(folder)
    plan, budget = _plan(told.layers, made.shape.decoder.layers, folder)
    space = convention(told.action_space) if told.action_space else None
    if made.prismatic and PrismaticFile(made.prismatic).others:
        averaged = EnsembleSettings(told.ensemble) if told.ensemble else None
        settings = CogACTSettings(told.camera, told.frame, told.period_s, told.execute, space, averaged)
        run = cogact_checkpoint.load(folder, told.statistics, told.dtype, device)
        return VlaRuntime(CogACTPolicy(run, settings, lambda tokens: plan, budget), budget)
    if told.execute != 1 or told.ensemble:
        raise ContractError(
            f"{folder / FILE}: OpenVLA makes one action per step; leave out execute and ensemble, or set execute to 1."
        )
    loaded = checkpoint.load(folder, told.statistics, told.dtype, device, told.crop_area)
    settings = OpenVLASettings(told.camera, told.frame, told.period_s, space)
    return VlaRuntime(OpenVLAPolicy(loaded, settings, lambda tokens: plan, budget), budget)


def read(folder: Path) -> Deployment:
    """Raises ContractError if the file is missing or says anything that is not understood."""
    path = folder / FILE
    if not path.is_file():
        raise ContractError(
            f"{path} is missing: a published model's files do not say which camera it sees here, nor how fast its actions "
            f"follow. Write it, for example {_EXAMPLE}."
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


def _plan(layers: Sequence[int] | None, depth: int, folder: Path) -> tuple[Plan, float]:
    chosen = set(range(depth) if layers is None else layers)
    if not chosen or not chosen <= set(range(depth)):
        raise ContractError(
            f"{folder / FILE}: layers {sorted(chosen)}; expected one or more of 0 … {depth - 1}, which the decoder has."
        )
    executed = tuple(i in chosen for i in range(depth))
    return Plan(tuple(map(float, executed)), executed), len(chosen) / depth
