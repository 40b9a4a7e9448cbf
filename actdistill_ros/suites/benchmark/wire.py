"""The wire between a policy and a benchmark: one message is a small JSON header and the arrays that it names.

    u32 length of the header | header | bytes of array 1 | bytes of array 2 …          (little endian, C order)
    header: {"version": 1, "op": …, …, "arrays": [{"name", "type", "shape"}, …]}

Both ends check version, types, shapes and sizes before they believe anything; nothing is unpickled. This module knows
the standard library and numpy only, for the benchmark's Python has nothing else of ours.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping

import numpy as np

VERSION = 1
TYPES = ("|u1", "<u4", "<f8")
LARGEST_HEADER, LARGEST_ARRAYS = 1 << 18, 1 << 24  # bytes
_LENGTH = struct.Struct("<I")


class WireError(RuntimeError):
    """What came is no message of this version; the connection is of no use any more."""


def send(connection: socket.socket, body: Mapping, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Raises WireError for an array that the wire does not carry, OSError if the other end has gone."""
    held = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    for name, array in held.items():
        if array.dtype.str not in TYPES:
            raise WireError(f"array {name} is of type {array.dtype.str}; the wire carries {', '.join(TYPES)}")
    listing = [{"name": name, "type": array.dtype.str, "shape": list(array.shape)} for name, array in held.items()]
    header = json.dumps({"version": VERSION, **body, "arrays": listing}).encode()
    connection.sendall(b"".join([_LENGTH.pack(len(header)), header, *(array.tobytes() for array in held.values())]))


def receive(connection: socket.socket) -> tuple[dict, dict[str, np.ndarray]]:
    """(header, arrays by name). Raises EOFError if the other end closed between messages, WireError for nonsense."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, between=True))
    if not 2 <= length <= LARGEST_HEADER:
        raise WireError(f"a header of {length} bytes was announced; expected 2 … {LARGEST_HEADER}")
    try:
        header = json.loads(_exactly(connection, length))
        version, listing = header.get("version"), header.pop("arrays", [])
        entries = [(str(e["name"]), str(e["type"]), tuple(int(n) for n in e["shape"])) for e in listing]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"the header cannot be read: {error!r}") from error
    if version != VERSION:
        raise WireError(f"the other end speaks version {version}, this one {VERSION}. Use both from one checkout.")
    return header, {name: _array(connection, name, kind, shape) for name, kind, shape in _allowed(entries)}


def _allowed(entries: list[tuple[str, str, tuple[int, ...]]]) -> list[tuple[str, str, tuple[int, ...]]]:
    total = 0
    for name, kind, shape in entries:
        if kind not in TYPES or any(n < 0 for n in shape):
            raise WireError(f"array {name} of type {kind} and shape {shape}; the wire carries {', '.join(TYPES)}")
        total += math.prod(shape) * np.dtype(kind).itemsize
    if total > LARGEST_ARRAYS:
        raise WireError(f"arrays of {total} bytes were announced; at most {LARGEST_ARRAYS} are taken")
    return entries


def _array(connection: socket.socket, name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    data = _exactly(connection, math.prod(shape) * np.dtype(kind).itemsize)
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _exactly(connection: socket.socket, count: int, between: bool = False) -> bytes:
    parts, left = [], count
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            if between and left == count:
                raise EOFError("the other end closed the connection")
            raise WireError(f"the connection ended {left} bytes before the end of a message")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
