"""Memory that may still be taken: the machine's, within the limits that the process is under."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actdistill_ros.distill.memory import Meter
from actdistill_ros.policy import memory
from actdistill_ros.policy.vla.weights import free_bytes

GIB = 1 << 30


def machine(root: Path, groups: dict[str, tuple[str, int, int]], own: str = "/", free: int = 64 * GIB) -> Path:
    """groups: path -> memory.max, memory.current and inactive_file, as the kernel writes them."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:  {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"4:memory:/other\n0::{own}\n")
    for path, (limit, used, cached) in groups.items():
        folder = root / "sys/fs/cgroup" / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\nactive_file 9\ninactive_file {cached}\n")
    return root


def test_files_that_were_just_copied_do_not_count_as_used(tmp_path):
    root = machine(tmp_path, {"/": (str(20 * GIB), 19 * GIB, 15 * GIB)})
    assert memory.available(root) == 16 * GIB


@pytest.mark.parametrize(
    ("groups", "own", "free"),
    [
        ({}, "/", 64),
        ({"/": ("max", 3 * GIB, 0)}, "/", 64),
        ({"/": (str(100 * GIB), 3 * GIB, 0)}, "/", 64),
        ({"/a/b": (str(8 * GIB), 2 * GIB, 0)}, "/a/b", 6),
        ({"/a": (str(8 * GIB), 3 * GIB, 0), "/a/b": (str(9 * GIB), 2 * GIB, 0)}, "/a/b", 5),
        ({"/": (str(8 * GIB), 2 * GIB, 0)}, "/not/seen/from/here", 6),
        ({"/": (str(2 * GIB), 3 * GIB, 0)}, "/", 0),
    ],
)
def test_the_least_of_the_machine_and_of_every_group_above_is_free(tmp_path, groups, own, free):
    assert memory.available(machine(tmp_path, groups, own)) == free * GIB


def test_loading_and_distilling_go_by_the_same_number(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 12345)
    assert free_bytes("cpu") == Meter(torch.device("cpu")).free() == 12345


def test_this_machine_has_some():
    assert 1 << 20 < memory.available() < 1 << 50
