#!/usr/bin/env python3
"""Loads a VLA checkpoint and prints, as JSON, how much memory that took beside what its weights take.

    tools/make_vla_checkpoint.py vla-1b --size 1b --dtype bfloat16
    tools/measure_vla_load.py vla-1b --dtype bfloat16

`peak_share` is the largest resident memory of the process while it loaded, less what it held before (the interpreter
and its libraries), as a share of the weights in the chosen type. Pages of mapped files count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from actdistill_ros.policy.vla import checkpoint


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process [bytes]."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory is counted from here
    before, start = resident("VmRSS"), time.monotonic()
    loaded = checkpoint.load(args.checkpoint, dtype=args.dtype)
    seconds, peak = time.monotonic() - start, resident("VmHWM")
    weights = sum(p.nbytes for p in loaded.model.parameters())
    found = {
        "dtype": args.dtype,
        "weights_bytes": weights,
        "before_bytes": before,
        "peak_bytes": peak,
        "peak_share": (peak - before) / weights,
        "peak_share_with_libraries": peak / weights,
        "seconds": seconds,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
