"""How much of the machine's memory may still be taken, whatever limits the process is under."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CGROUPS = "sys/fs/cgroup"


def available(root: Path = Path("/")) -> int:
    """Bytes: what the machine has, and no more than any control group (v2) of this process allows. Cached pages of
    files, which the kernel gives up by itself, count as free. root: where proc and sys are."""
    meminfo = (root / "proc/meminfo").read_text()
    free = 1024 * _numbers(meminfo.replace(":", " "))["MemAvailable"]
    return max(0, min([free, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """Bytes that each group with a limit has left, from the process's own up to the root."""
    for folder in _groups(root):
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit == "max":
                continue
            used = int((folder / "memory.current").read_text())
            # Pages of files that were just copied or read are charged to the group, and given up before it runs out.
            cached = _numbers((folder / "memory.stat").read_text()).get("inactive_file", 0)
        except OSError:  # the root has no such files, a group without the memory controller neither
            continue
        yield int(limit) - max(0, used - cached)


def _groups(root: Path) -> Iterator[Path]:
    listed = root / "proc/self/cgroup"
    lines = listed.read_text().splitlines() if listed.is_file() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    # In a namespace of its own a container may be told of a path that it cannot see: its limits are at the root then.
    folder = Path(own)
    yield from (root / _CGROUPS / part for part in (folder, *folder.parents))


def _numbers(text: str) -> dict[str, int]:
    """Name -> number, of lines that begin with both."""
    words = (line.split() for line in text.splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
