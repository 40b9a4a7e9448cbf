"""Weights that may be split over processes: of each decoder layer every process keeps a part, with its gradient,
moments and average; a layer is put together while it runs (ZeRO stage 3, by torch's `fully_shard`).

Saved states hold whole weights, so a run may go on with another number of processes, split or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from actdistill_ros.distill.processes import Processes


def split(layers: Iterable[nn.Module], processes: Processes) -> None:
    """Each process keeps its part of every layer, if that is asked for. Gradients are added up, not averaged: every
    process computes the losses of the whole batch."""
    if not processes.split:
        return
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        layer.set_gradient_divide_factor(1.0)
        layer.set_force_sum_reduction_for_comms(True)


def own(p: Tensor) -> Tensor:
    """This process's part, sharing memory; the tensor itself where nothing is split."""
    return p.to_local() if isinstance(p, DTensor) else p


def whole(p: Tensor, part: Tensor) -> Tensor:
    """All of what each process has a part of, split as `p` is; every process has to ask."""
    if not isinstance(p, DTensor):
        return part
    spread = DTensor.from_local(part, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())
    return spread.full_tensor()


def part(p: Tensor, everything: Tensor) -> Tensor:
    """This process's part of a whole, split as `p` is."""
    if not isinstance(p, DTensor):
        return everything
    there = everything.to(p.device)
    return distribute_tensor(there, p.device_mesh, p.placements, src_data_rank=None).to_local()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state as if nothing were split; every process has to ask."""
    return {name: whole(value, own(value)) for name, value in module.state_dict().items()}


@torch.no_grad()
def restore(module: nn.Module, state: dict[str, Tensor]) -> None:
    """What `whole_state` said. Raises RuntimeError if names or shapes differ."""
    module.load_state_dict({name: _split_as(module.state_dict()[name], value) for name, value in state.items()})


def _split_as(p: Tensor, everything: Tensor) -> Tensor:
    if not isinstance(p, DTensor):
        return everything
    return distribute_tensor(everything.to(p.device), p.device_mesh, p.placements, src_data_rank=None)


class Owned:
    """Parameters as the optimiser sees them: `parts`, this process's part of each."""

    def __init__(self, parameters: Iterable[nn.Parameter], processes: Processes) -> None:
        self.parameters, self._processes = list(parameters), processes
        self.parts = [nn.Parameter(own(p.detach())) if isinstance(p, DTensor) else p for p in self.parameters]

    def clear(self) -> None:
        """No gradients."""
        for p in (*self.parameters, *self.parts):
            p.grad = None

    def collect(self) -> None:
        """The gradients of all processes, added up, where the optimiser looks for them."""
        self._processes.add_gradients(p for p in self.parameters if not isinstance(p, DTensor))
        for p, mine in zip(self.parameters, self.parts, strict=True):
            if mine is not p:
                mine.grad = None if p.grad is None else own(p.grad)

    def clip(self, limit: float) -> None:
        """Scale the gradients so that their norm, over all processes' parts, is within the limit."""
        if not self._processes.split:
            torch.nn.utils.clip_grad_norm_(self.parts, limit)
            return
        gradients = [
            (p, mine.grad) for p, mine in zip(self.parameters, self.parts, strict=True) if mine.grad is not None
        ]
        here = sum((g.square().sum() for p, g in gradients if isinstance(p, DTensor)), torch.zeros(()))
        everywhere = sum((g.square().sum() for p, g in gradients if not isinstance(p, DTensor)), torch.zeros(()))
        norm = (self._processes.total(here.to(self._processes.device)) + everywhere).sqrt()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for _, gradient in gradients:
            gradient.mul_(scale)


def descend(optimiser: torch.optim.Optimizer, owned: Sequence[Owned], loss: Tensor, share: float) -> None:
    """One step down the loss, with gradients clipped, at that share of each group's peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
    for one in owned:
        one.clear()
    loss.backward()
    for one in owned:
        one.collect()
        one.clip(1.0)
    optimiser.step()


def optimiser_state(optimiser: torch.optim.Optimizer, owned: Iterable[Owned]) -> dict:
    """The optimiser's state as if nothing were split; every process has to ask."""
    return _each_moment(optimiser.state_dict(), owned, whole)


def restore_optimiser(optimiser: torch.optim.Optimizer, owned: Iterable[Owned], state: dict) -> None:
    optimiser.load_state_dict(_each_moment(state, owned, part))


def _each_moment(state: dict, owned: Iterable[Owned], change) -> dict:
    parameters = [p for one in owned for p in one.parameters]  # numbered by the optimiser in this order

    def moved(index: int, values: dict) -> dict:
        return {name: change(parameters[index], v) if v.ndim else v for name, v in values.items()}

    return {**state, "state": {index: moved(index, values) for index, values in state["state"].items()}}
