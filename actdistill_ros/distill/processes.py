"""The processes that train one student together: each computes its share of a batch, all know the whole of it.

Whatever is said of a sample is gathered, and every loss is computed by every process on the whole batch, so budgets of
groups, relations between samples and weighted means are those of one process. Gradients flow back to the process that
said it and are added up. So N processes take the same steps as one, within rounding.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from actdistill_ros.distill.loop import DistillError

LONGEST_WAIT = timedelta(hours=2)  # while one of them calibrates or saves
BUCKET = 2**23  # numbers that are added up in one go


@dataclass(frozen=True)
class Processes:
    """count, index: how many there are and which of them this is; device: where it computes; beside: how many of them
    share this machine; split: whether each keeps only a part of the decoders' layers."""

    count: int = 1
    index: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    beside: int = 1
    split: bool = False

    @classmethod
    def launched(cls, split: bool = False) -> Processes:
        """Those that `accelerate launch` or torchrun started; alone, on the best device, without either.

        Raises DistillError if layers are to be split and there is only one process.
        """
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
        if state.num_processes == 1:
            if split:
                raise DistillError(
                    "--split needs several processes; start it with `accelerate launch`, or leave it out."
                )
            return cls(device=state.device)
        names: list = [None] * state.num_processes
        dist.all_gather_object(names, socket.gethostname())
        beside = names.count(socket.gethostname())
        return cls(state.num_processes, state.process_index, state.device, beside, split)

    @property
    def main(self) -> bool:
        """The one that writes, prints and judges."""
        return self.index == 0

    @property
    def takes_part(self) -> bool:
        """Whether this process is needed in what does not train: by itself no process can run layers that are split."""
        return self.main or self.split

    def share(self, size: int) -> slice:
        """This process's rows of a batch. Raises DistillError if it cannot be split evenly."""
        if size % self.count:
            raise DistillError(
                f"batch {size} cannot be split evenly over {self.count} processes; give a multiple of {self.count}."
            )
        each = size // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def whole(self, x: Tensor, dim: int = 0) -> Tensor:
        """The whole batch from what each process has of it along `dim`; gradients flow back to this process's part."""
        return x if self.count == 1 else _Whole.apply(x, self, dim)

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Each gradient becomes the sum of all processes' gradients."""
        if self.count == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def total(self, x: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def every(self, value: object) -> list:
        """What each process has, in their order; small things only."""
        if self.count == 1:
            return [value]
        found: list = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


def leave() -> None:
    """Part from the other processes at the end of a run. One that ends while their threads still talk to it aborts."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Whole(torch.autograd.Function):
    """Every process computes the same losses of the whole, so the gradient of its own part is already complete: adding
    up the others' gradients of it would count each loss once per process."""

    @staticmethod
    def forward(ctx, x: Tensor, processes: Processes, dim: int) -> Tensor:
        ctx.dim, ctx.start, ctx.length = dim, processes.index * x.shape[dim], x.shape[dim]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes.count)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.narrow(ctx.dim, ctx.start, ctx.length), None, None


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """In their order, as many as fit together; of one kind of number each."""
    found: list[list[Tensor]] = []
    filled = BUCKET
    for gradient in gradients:
        if filled + gradient.numel() > BUCKET or found[-1][0].dtype != gradient.dtype:
            found.append([])
            filled = 0
        found[-1].append(gradient)
        filled += gradient.numel()
    return found
