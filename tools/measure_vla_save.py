#!/usr/bin/env python3
"""Writes a student of a VLA folder, its decoder's layers anew and a router beside, and prints, as JSON, how much memory
that took.

    tools/make_vla_checkpoint.py vla-1b --size 1b --dtype bfloat16 [--layout prismatic]
    tools/measure_vla_save.py vla-1b vla-1b-student

`peak_bytes` is the largest resident memory of the process while it wrote, less what it held before (the interpreter and
its libraries). Pages of mapped files count. Every new tensor is made when it is asked for, as merged adapters are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from measure_vla_load import resident
from torch import Tensor

from actdistill_ros.policy.vla import layout, student_folder
from actdistill_ros.policy.vla.openvla import unfilled
from actdistill_ros.policy.vla.router import VlaRouter

TOLD = {"camera": "front", "frame": [480, 640], "period_s": 0.2, "statistics": "bridge_orig"}


class New(Mapping):
    """Each matrix of the decoder's layers, random, made when it is asked for."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, name: str) -> Tensor:
        return torch.randn(self._shapes[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = layout.read(args.teacher)
    if not (deployment := args.teacher / layout.DEPLOYMENT).exists():
        deployment.write_text(json.dumps(TOLD))
    shapes = dict(unfilled(made.shape).named_parameters())
    new = New({name: p.shape for name, p in shapes.items() if ".layers." in name and p.ndim == 2})
    shape = made.shape.decoder
    router = VlaRouter(shape.width, 64, shape.layers, made.shape.dino.patches)
    router.calibrate(torch.randn(64, shape.layers))
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory is counted from here
    before, start = resident("VmRSS"), time.monotonic()
    student_folder.save(args.out, args.teacher, new, router, 0.47)
    seconds, peak = time.monotonic() - start, resident("VmHWM")
    written = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    largest = max(size.numel() for size in new._shapes.values()) * torch.float32.itemsize
    found = {"written_bytes": written, "largest_new_tensor_bytes": largest, "before_bytes": before}
    print(json.dumps(found | {"peak_bytes": peak - before, "seconds": seconds}))


if __name__ == "__main__":
    main()
