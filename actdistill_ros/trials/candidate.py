"""Who is judged: a checkpoint as `actdistill eval` asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.policy import loading
from actdistill_ros.policy.planning import FixedPlan, RandomPlan
from actdistill_ros.policy.vla import deployment
from actdistill_ros.policy.vla import layout as vla
from actdistill_ros.sim import env, layout


def device(folder: Path) -> str:
    """A published model wants a GPU; the bundled ones are faster without."""
    return "cuda" if vla.is_vla(folder) and torch.cuda.is_available() else "cpu"


def load(folder: Path, execute: int | None):
    """Raises ContractError if the checkpoint is none, or was made for another world than the tabletop."""
    runtime = loading.load(folder, device(folder))
    check_world(runtime.contract, runtime.checkpoint_id)
    return runtime.with_execute(execute) if execute else runtime


def check(folder: Path, execute: int | None, budget: float | None, plan: str) -> None:
    """Raises ContractError for what `load` and `planned` refuse, as far as it is known without a published model's
    weights: they may not fit twice."""
    if vla.is_vla(folder):
        unfilled = deployment.unfilled(folder)
        check_world(unfilled.contract, unfilled.checkpoint_id)
        runtime = unfilled.with_execute(execute) if execute else unfilled
    else:
        runtime = load(folder, execute)
    planned(runtime, budget, plan, 0)


def check_world(contract: Contract, name: str) -> None:
    """Raises ContractError if what promises this, called `name`, was made for another world than the tabletop."""
    period_s, cameras = contract.action.period_s, contract.cameras
    shown = {name: (layout.FRAME_PIXELS,) * 2 for name in layout.CAMERAS}
    seen = {camera.name: (camera.source_height, camera.source_width) for camera in cameras}
    if abs(period_s - env.PERIOD_S) > 1e-6 or not seen.items() <= shown.items():
        raise ContractError(
            f"{name} is for an action each {period_s:g} s and cameras {_named(seen)}; the tabletop "
            f"has {env.PERIOD_S:g} s and {_named(shown)}. Judge it on what it was made for, or train it on data of "
            "this world."
        )


def _named(cameras: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} of {height} × {width}" for name, (height, width) in cameras.items())


def planned(runtime, budget: float | None, plan: str, seed: int):
    """The runtime as `--budget` and `--plan` ask for it. Raises ContractError if the checkpoint cannot do that."""
    if plan == "router":
        runtime.set_budget(budget)
        return runtime
    if plan == "random":
        try:
            return runtime.with_planner(RandomPlan(runtime.layers, runtime.budget if budget is None else budget, seed))
        except ValueError as error:
            raise ContractError(f"{runtime.checkpoint_id}: {error}.") from error
    fixed = FixedPlan(_layers(plan, runtime.layers))
    if budget is not None and abs(budget - fixed.budget) > 1e-3:
        raise ContractError(
            f"--plan {plan} runs {fixed.budget:.3g} of the decoder in every step; --budget {budget:g} cannot be met. "
            "Leave out one of the two."
        )
    return runtime.with_planner(fixed)


def _layers(plan: str, total: int) -> list[bool]:
    words = plan.split(",")
    if not all(word.isdecimal() and int(word) < total for word in words):
        raise ContractError(
            f"--plan {plan} is neither router nor random nor layers of 0 … {total - 1}, as in 0,1,{total - 1}"
        )
    return [str(i) in words for i in range(total)]
