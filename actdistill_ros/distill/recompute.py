"""Gradient checkpointing: what a layer computed is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def kernels(device: torch.device) -> AbstractContextManager:
    """Attention as it is fastest in training; on a CPU the flash kernel's backward pass takes half of a step of short
    sequences."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@contextmanager
def autocast(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Matrix products in `dtype`."""
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), kernels(device):
        yield


def recomputed(device: torch.device) -> Callable[..., Result]:
    """`run(function, *arguments)` that keeps the arguments only. Nothing here is random, so the second pass is the
    first; it needs the same attention kernels, which autograd would not restore by itself."""

    def run(function: Callable[..., Result], *arguments: object) -> Result:
        return checkpoint(
            function,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), kernels(device)),
        )

    return run


def directly(function: Callable[..., Result], *arguments: object) -> Result:
    return function(*arguments)
