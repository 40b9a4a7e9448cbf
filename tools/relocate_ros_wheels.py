"""Points the cmake files of the ROS wheels at this machine's Python and numpy headers; may run any number of times."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILDER_NUMPY = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages/numpy/_core/include")
BUILDER_PYTHON = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")


def relocate(prefix: Path) -> int:
    """Rewrite the wheel builder's include folders under `prefix`/share; returns how many files changed."""
    changed = 0
    for path in prefix.glob("share/*/cmake/*.cmake"):
        text = path.read_text()
        moved = BUILDER_NUMPY.sub(numpy.get_include(), text)
        moved = BUILDER_PYTHON.sub(sysconfig.get_path("include"), moved)
        if moved != text:
            path.write_text(moved)
            changed += 1
    return changed


if __name__ == "__main__":
    print(relocate(Path(sys.prefix)))
