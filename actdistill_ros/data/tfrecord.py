"""Records of a TFRecord file: framing and checksums, without TensorFlow.

A record is: length (uint64, little endian), masked CRC32C of those 8 bytes (uint32), payload, masked CRC32C of the
payload. Source: the TFRecord page of TensorFlow's guide.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c

from actdistill_ros.data.episode import DataError

_HEADER, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")
FRAMING_BYTES = _HEADER.size + _CHECKSUM.size
_ROTATE, _MASK = 15, 0xA282EAD8


def masked_crc32c(payload: bytes) -> int:
    """CRC32C, rotated and offset, so that checksums of data that hold checksums stay useful."""
    crc = google_crc32c.value(payload)
    return ((crc >> _ROTATE | crc << (32 - _ROTATE)) + _MASK) & 0xFFFFFFFF


def lengths(path: Path) -> list[int]:
    """Payload bytes of each record, from the headers alone.

    Raises DataError if the file is missing, ends inside a record, or a header is damaged.
    """
    return [length for length, _ in _walk(path)]


def records(path: Path, wanted: Callable[[int], bool] = lambda _: True) -> Iterator[tuple[int, bytes]]:
    """(number in the file, payload) of each wanted record; the others are skipped without being read.

    Raises DataError if the file is missing, ends inside a record, or a checksum does not fit.
    """
    with _open(path) as file:
        for number, (length, start) in enumerate(_walk(path)):
            if not wanted(number):
                continue
            file.seek(start)
            payload = file.read(length)
            checksum = file.read(_CHECKSUM.size)
            if len(payload) < length or len(checksum) < _CHECKSUM.size:
                raise _cut(path, number)
            if masked_crc32c(payload) != _CHECKSUM.unpack(checksum)[0]:
                raise DataError(
                    f"record {number} of {path} does not match its checksum; the file is damaged, copy it again."
                )
            yield number, payload


def _walk(path: Path) -> Iterator[tuple[int, int]]:
    """(payload bytes, offset of the payload) of each record."""
    size, offset, number = _size(path), 0, 0
    with _open(path) as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise _cut(path, number)
            length, checksum = _HEADER.unpack(header)
            # Before the length is believed: a wrong one would send the reader anywhere.
            if masked_crc32c(header[:8]) != checksum:
                raise DataError(
                    f"the header of record {number} of {path} does not match its checksum; the file is damaged or "
                    "no TFRecord file (compressed ones are not read). Copy it again."
                )
            if offset + FRAMING_BYTES + length > size:
                raise _cut(path, number)
            yield length, offset + _HEADER.size
            offset += FRAMING_BYTES + length
            number += 1


def _open(path: Path):
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy the data set again, with all its shards.") from None


def _size(path: Path) -> int:
    with _open(path) as file:
        return file.seek(0, 2)


def _cut(path: Path, number: int) -> DataError:
    return DataError(f"{path} ends inside record {number}; it was cut off, copy it again.")
