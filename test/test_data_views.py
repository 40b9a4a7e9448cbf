"""Decoded frames that are kept beside a data set: made once, never more than the disk takes, with progress."""

# ruff: noqa: F811

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_data_lerobot import recorded  # noqa: F401

from actdistill_ros.data import reader
from actdistill_ros.data.lerobot import DataError, Dataset


def test_readers_at_once_decode_a_view_once(recorded):
    seen = []

    def view(image):
        seen.append(image)
        return image[:8, :8]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: Dataset.open(recorded).views("front", "corner", (8, 8), view), range(3)))
    assert len(seen) == len(Dataset.open(recorded))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert [path.suffix for path in (recorded / "cache").iterdir()] == [".npy"]


def test_a_disk_too_small_for_the_decoded_frames_is_refused_before_the_first(recorded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(DataError, match=r"needs 0.0 GB for the decoded frames of front, 0.0 GB are free; make room"):
        Dataset.open(recorded).frames("front")
    assert not list((recorded / "cache").glob("*.npy"))


def test_decoding_that_takes_long_says_how_far_it_is(recorded, monkeypatch, capsys):
    monkeypatch.setattr(reader, "REPORT_EVERY_S", 0.0)
    frames = len(Dataset.open(recorded).frames("front"))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == frames and told[-1].endswith(f"{frames} of {frames} frames of front decoded, 0 s left")
