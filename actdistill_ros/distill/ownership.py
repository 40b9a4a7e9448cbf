"""One run per folder of training: two at once would overwrite each other's states."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actdistill_ros.distill.loop import DistillError

FILE = "owner"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder is this process's until the block ends or the process dies, however it dies.

    Raises DistillError if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise DistillError(
                f"{folder} is at work in process {file.read().strip() or 'of another machine'}; wait for it, end it, "
                "or give another --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
