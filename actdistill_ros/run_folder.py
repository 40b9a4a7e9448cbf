"""Where a running graph keeps its sockets and files; its lock lets one graph live in a namespace of a ROS domain."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

_LONGEST = 90  # bytes; Unix socket paths end at 107 and the longest socket name takes 12


class RunFolderError(RuntimeError):
    """The folder cannot be made, or another graph lives in it; the text says how to mend it."""


def domain(environment: Mapping[str, str] = os.environ) -> int:
    """The ROS domain; raises RunFolderError if it is not 0 … 232 (above, there are no ports for it)."""
    text = environment.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal() or int(text) > 232:
        raise RunFolderError(f"ROS_DOMAIN_ID={text} is not a number from 0 to 232. Unset it or choose another.")
    return int(text)


def path(namespace: str = "/", environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the graph in this namespace; the same for everybody who asks, and short enough for sockets."""
    base = environment.get("XDG_RUNTIME_DIR") or ""
    try:
        base = base if base and os.access(base, os.W_OK) else tempfile.gettempdir()
    except FileNotFoundError as error:
        raise RunFolderError("no folder for temporary files can be written. Set TMPDIR to one that can.") from error
    name = f"{domain(environment)}{namespace.rstrip('/').replace('/', '.')}"
    parent = Path(base) / f"actdistill-{os.getuid()}"
    folder = parent / name
    if len(os.fsencode(folder)) > _LONGEST:
        folder = parent / hashlib.sha256(name.encode()).hexdigest()[:16]
    if len(os.fsencode(folder)) > _LONGEST:
        raise RunFolderError(
            f"{folder} is too long for sockets. Set XDG_RUNTIME_DIR to a shorter folder, for example /tmp."
        )
    return folder


class RunFolder:
    """Holds `folder` for this process until `release`, or until the process ends in whatever way."""

    def __init__(self, folder: Path) -> None:
        """Raises RunFolderError if another graph holds it or it cannot be made."""
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for private in (folder.parent, folder):
                if private.stat().st_uid != os.getuid():
                    raise RunFolderError(
                        f"{private} belongs to another user. Set XDG_RUNTIME_DIR to a folder of yours."
                    )
                private.chmod(0o700)
            self._lock = open(folder / "lock", "a+")
        except OSError as error:
            raise RunFolderError(
                f"cannot make the folder for this graph's sockets: {error}. "
                "Set XDG_RUNTIME_DIR to a folder that can be written."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise RunFolderError(
                f"another graph runs in this namespace and ROS domain (process {holder}). Stop it, or give this one "
                "its own namespace:=name or ROS_DOMAIN_ID."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def write_parameters(self, name: str, parameters: Mapping[str, object]) -> Path:
        """Parameter file of one node; JSON strings are YAML strings, so that free text stays text."""
        lines = [f"    {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in parameters.items()]
        file = self.folder / f"{name}.yaml"
        file.write_text('"/**":\n  ros__parameters:\n' + "".join(lines), encoding="utf-8")
        return file

    def release(self) -> None:
        """Let the next graph in. The lock file stays: removing it would let two graphs hold two files of one name."""
        self._lock.close()
