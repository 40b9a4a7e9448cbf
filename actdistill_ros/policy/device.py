"""Where a policy computes: `cpu`, `cuda`, or one of several GPUs, `cuda:1`."""

from __future__ import annotations

import re
from collections.abc import Callable

from actdistill_ros.contract.contract import ContractError

FORMS = "cpu, cuda, or cuda:N for the GPU of number N"


def is_named(text: str) -> bool:
    """Whether this is the name of a device, whatever this machine has. Needs no torch."""
    return re.fullmatch(r"cpu|cuda(:(0|[1-9]\d?))?", text, re.ASCII) is not None


def check(text: str, gpus: Callable[[], int] = lambda: _gpus()) -> None:
    """gpus: how many this machine has for torch. Raises ContractError if there is no such device."""
    if not is_named(text):
        raise ContractError(f"device {text!r} is none; expected {FORMS}.")
    if text == "cpu":
        return
    number, count = int(text.partition(":")[2] or 0), gpus()
    if not count:
        import torch

        raise ContractError(
            f"device {text}: torch {torch.__version__} finds no GPU here. Install torch for CUDA and the GPU's driver "
            "(nvidia-smi shows whether it works), or take cpu."
        )
    if number >= count:
        has = ", ".join(f"cuda:{i}" for i in range(count))
        raise ContractError(f"device {text}: this machine has {has}. Take one of these, or cpu.")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
