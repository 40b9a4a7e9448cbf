"""TFRecord files and the Examples in them: read as TensorFlow wrote them, and whatever is damaged is named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from actdistill_ros.data import tf_example
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.tfrecord import FRAMING_BYTES, lengths, masked_crc32c, records

SAMPLE = Path(__file__).parent / "data/rlds/made_up_arm-train.tfrecord-00000-of-00002"


@pytest.fixture
def copy(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(SAMPLE.read_bytes())
    return path


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_the_checksum_is_crc32c_rotated_and_offset():
    crc = 0xE3069283  # of "123456789", from RFC 3720's polynomial
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_records_are_those_that_tensorflow_wrote():
    found = list(records(SAMPLE))
    assert [number for number, _ in found] == [0, 1]
    assert [len(payload) for _, payload in found] == lengths(SAMPLE)
    assert sum(lengths(SAMPLE)) + 2 * FRAMING_BYTES == SAMPLE.stat().st_size
    assert len(tf_example.parse(found[0][1])["steps/observation/top"]) == 6


def test_unwanted_records_are_passed_over_unread(copy):
    flip(copy, 100)  # in the first record's payload
    ((number, payload),) = records(copy, lambda number: number == 1)
    assert number == 1 and payload == list(records(SAMPLE))[1][1]


def test_a_flipped_bit_is_found_wherever_it_is(copy):
    flip(copy, 100)
    with pytest.raises(DataError, match="record 0 of .* does not match its checksum; the file is damaged"):
        list(records(copy))
    flip(copy, 100)
    flip(copy, 3)
    with pytest.raises(DataError, match="header of record 0 of .* does not match its checksum"):
        lengths(copy)


@pytest.mark.parametrize("kept", [5, 11, 500, -1])
def test_a_file_that_was_cut_off_names_the_record_that_is_not_whole(copy, kept):
    data = copy.read_bytes()
    copy.write_bytes(data[:kept])
    with pytest.raises(DataError, match=rf"ends inside record {0 if kept > 0 else 1}; it was cut off"):
        lengths(copy)


def test_a_missing_or_compressed_file_says_so(tmp_path, copy):
    with pytest.raises(DataError, match="is missing; copy the data set again"):
        lengths(tmp_path / "no.tfrecord")
    copy.write_bytes(gzip.compress(copy.read_bytes()))
    with pytest.raises(DataError, match="compressed ones are not read"):
        lengths(copy)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protobuf message, by hand."""
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def test_an_example_is_read_packed_or_not():
    floats = struct.pack("<2f", 1.5, -2.0)
    loose = b"".join(bytes([1 << 3 | 5]) + struct.pack("<f", value) for value in (1.5, -2.0))
    for body in (field(1, floats), loose):
        entry = field(1, b"a") + field(2, field(2, body))
        assert np.array_equal(tf_example.parse(field(1, field(1, entry)))["a"], [1.5, -2.0])


def test_a_sequence_example_gives_its_context_and_its_steps_end_to_end():
    minus_one = b"\xff" * 9 + b"\x01"
    context = field(1, field(1, field(1, b"id") + field(2, field(1, field(1, b"x7")))))
    steps = b"".join(field(1, field(3, field(1, value))) for value in (b"\x05", minus_one))
    listed = field(2, field(1, field(1, b"n") + field(2, steps)))
    found = tf_example.parse(context + listed)
    assert found["id"] == [b"x7"] and found["n"].tolist() == [5, -1]


def test_what_is_no_example_is_refused():
    with pytest.raises(DataError, match=r"a record of 3 bytes is no tf\.train\.Example"):
        tf_example.parse(b"\x0a\x50\x01")
