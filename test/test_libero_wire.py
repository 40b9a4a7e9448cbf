"""What the wire between policy and benchmark takes, and what it refuses."""

import json
import socket
import struct

import numpy as np
import pytest

from actdistill_ros.suites.benchmark import wire


@pytest.fixture
def ends():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def raw(header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + body


def test_numbers_and_arrays_arrive_as_they_were_sent(ends):
    arrays = {
        "image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        "state": np.array([0.1, -np.pi]),
        "none": np.zeros((0, 7)),
    }
    wire.send(ends[0], {"op": "step", "count": 3}, arrays)
    header, found = wire.receive(ends[1])
    assert header == {"version": wire.VERSION, "op": "step", "count": 3}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and (found[name] == array).all() and found[name].shape == array.shape


def test_messages_follow_each_other(ends):
    for i in range(3):
        wire.send(ends[0], {"i": i}, {"a": np.full(5, i, dtype="<f8")})
    assert [wire.receive(ends[1])[0]["i"] for _ in range(3)] == [0, 1, 2]


def test_an_array_of_another_type_is_not_sent(ends):
    with pytest.raises(wire.WireError, match="array a is of type <f4"):
        wire.send(ends[0], {}, {"a": np.zeros(3, dtype=np.float32)})


def test_another_version_is_refused_with_both_numbers(ends):
    ends[0].sendall(raw({"version": 2, "arrays": []}))
    with pytest.raises(wire.WireError, match="version 2, this one 1"):
        wire.receive(ends[1])


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a", "type": "|O8", "shape": [1]},
        {"name": "a", "type": "<f8", "shape": [-1]},
        {"name": "a", "type": "<f8", "shape": [1 << 40]},
        {"name": "a", "type": "<f8", "shape": "x"},
        {"name": "a", "shape": [1]},
        "a",
    ],
)
def test_an_array_that_makes_no_sense_is_refused_before_it_is_read(ends, entry):
    ends[0].sendall(raw({"version": wire.VERSION, "arrays": [entry]}))
    with pytest.raises(wire.WireError):
        wire.receive(ends[1])


@pytest.mark.parametrize(
    "data", [struct.pack("<I", 1 << 30), struct.pack("<I", 4) + b"nope", struct.pack("<I", 4) + b"[12]"]
)
def test_a_header_that_is_none_is_refused(ends, data):
    ends[0].sendall(data)
    with pytest.raises(wire.WireError):
        wire.receive(ends[1])


def test_an_end_between_messages_is_told_from_an_end_within_one(ends):
    message = raw({"version": wire.VERSION, "arrays": [{"name": "a", "type": "<f8", "shape": [2]}]}, bytes(16))
    ends[0].sendall(message + message[:-3])
    ends[0].shutdown(socket.SHUT_WR)
    wire.receive(ends[1])
    with pytest.raises(wire.WireError, match="3 bytes before the end"):
        wire.receive(ends[1])
    with pytest.raises(EOFError):
        wire.receive(ends[1])
