"""How much memory a device has and how much of it a piece of work takes."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

from actdistill_ros.policy import memory


class Meter:
    """Bytes of this process on one device: the machine's memory for a CPU, the card's for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._card = device if device.type == "cuda" else None

    def start(self) -> int:
        """What is in use now, after giving back what is not; `peak` counts from here on."""
        gc.collect()
        if self._card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._card)
            return torch.cuda.memory_allocated(self._card)
        _trim()
        with suppress(OSError):  # where that is not allowed the mark is of the whole life: too high, never too low
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is in use
        return _status("VmRSS")

    def peak(self) -> int:
        """The most that was in use since `start`."""
        return torch.cuda.max_memory_allocated(self._card) if self._card else _status("VmHWM")

    def free(self) -> int:
        """What could be had besides; on a CPU all processes of the machine share it."""
        if self._card:
            free, _ = torch.cuda.mem_get_info(self._card)
            return free + torch.cuda.memory_reserved(self._card) - torch.cuda.memory_allocated(self._card)
        return memory.available()


def _trim() -> None:
    """What was freed goes back to the system, where the C library can do that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
