"""Whatever policy lies in a folder, ready to run: this package's own, or a published VLA."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from actdistill_ros.contract import contract as contracts
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy import device as devices
from actdistill_ros.policy.runtime import PolicyRuntime, StepResult
from actdistill_ros.policy.vla import checkpoint as published
from actdistill_ros.policy.vla import deployment, layout


class Runtime(Protocol):
    """What the inference node needs of a policy; see `PolicyRuntime` for each member."""

    @property
    def contract(self) -> Contract: ...

    @property
    def checkpoint_id(self) -> str: ...

    @property
    def budget(self) -> float: ...

    def set_budget(self, budget: float | None) -> None: ...

    def unseen(self, instruction: str) -> list[str]: ...

    def reset(self) -> None: ...

    def step(self, observation: Observation) -> StepResult: ...


def load(folder: Path, device: str = "cpu") -> Runtime:
    """Raises ContractError if there is no such device here, or the folder is not a whole, fitting checkpoint."""
    devices.check(device)
    return deployment.load(folder, device) if layout.is_vla(folder) else PolicyRuntime.load(folder, device)


def require_own(folder: Path, option: str, instead: str) -> None:
    """For commands that run this package's own policies alone. option: that named the folder; instead: what does.

    Raises ContractError if the folder is a published VLA's.
    """
    if layout.is_vla(folder):
        raise ContractError(f"{option} {folder} is a published model, expected a policy of this package; {instead}.")


def contract(folder: Path) -> Contract:
    """What the policy promises, without loading it. Raises ContractError if it promises nothing."""
    return deployment.contract(folder) if layout.is_vla(folder) else contracts.load(folder)


def identity(folder: Path) -> str:
    """Name and hash of the weights, without loading them. Raises ContractError if there are none."""
    if not layout.is_vla(folder):
        return checkpoint.identity(folder)
    made = layout.read(folder)
    return published.identity(made.folder, published.open_source(made))
