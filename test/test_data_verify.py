"""`actdistill dataset verify`: a whole data set passes, and each fault is named."""

# ruff: noqa: F811

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_lerobot import episode, recorded  # noqa: F401

from actdistill_ros import cli
from actdistill_ros.data import statistics
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.foreign_video import decode_at
from actdistill_ros.data.lerobot import Dataset
from actdistill_ros.data.video import Encoder, decode


def change(folder, name: str, frame: int, value) -> None:
    """Overwrite one number in the second data file."""
    path = folder / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    column = table[name].combine_chunks()
    flat = column
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False).copy()
    values[frame * (len(values) // len(table))] = value
    changed = pa.array(values) if flat is column else pa.FixedSizeListArray.from_arrays(pa.array(values), 7)
    changed = table.set_column(table.column_names.index(name), name, changed)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def verify(folder, capsys) -> str:
    assert cli.main(["dataset", "verify", str(folder)]) == 1
    return capsys.readouterr().err


def test_a_whole_data_set_has_no_faults(recorded, tmp_path, capsys):
    statistics.save(recorded, "arm", Dataset.open(recorded).columns("chunk"))
    assert cli.main(["dataset", "verify", str(recorded), "--json", str(tmp_path / "found.json")]) == 0
    assert "5 episodes, 19 frames, front, wrist: no faults" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["faults"] == []


def test_a_number_that_is_not_finite_is_named_with_its_frame(recorded, capsys):
    change(recorded, "action", 1, np.nan)
    frame = len(episode(0)) + len(episode(1)) + 1
    assert f"column action is not finite in frame {frame} (episode 2)" in verify(recorded, capsys)


def test_counters_and_times_that_do_not_count_are_named(recorded, capsys):
    change(recorded, "timestamp", 2, 9.0)
    assert "episode 2: timestamp does not count as it should" in verify(recorded, capsys)


def test_a_damaged_video_and_data_file_are_named(recorded, capsys):
    video = recorded / "videos/observation.images.wrist/chunk-000/file-002.mp4"
    video.write_bytes(video.read_bytes()[:-500])
    told = verify(recorded, capsys)
    assert "episode 4: video" in told and "file-002.mp4" in told
    data = recorded / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:-50])
    assert "action, chunk, aux, labelled, timestamp" in (told := verify(recorded, capsys)) and ": data file" in told


def test_statistics_of_other_data_are_named(recorded, capsys):
    statistics.save(recorded, "arm", Dataset.open(recorded).columns("chunk")[:5])
    assert "statistics arm are not those of the data" in verify(recorded, capsys)


def test_a_data_set_of_others_that_was_not_imported_is_not_called_sound(capsys):
    told = verify(Path(__file__).parent / "data" / "lerobot_v3_0_video", capsys)
    assert "no column chunk" in told and "action is motors, not dx_m" in told and "dataset import" in told


def test_a_file_that_cannot_be_read_is_named_once(recorded, capsys):
    path = recorded / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    told = verify(recorded, capsys)
    assert told.count("file-001.parquet cannot be read") == 1 and "column observation.state, action, chunk" in told


def test_a_picture_that_the_decoder_had_to_paint_over_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "noise.mp4"
    encoder = Encoder(path, 64, 64, fps=10)
    for image in noise:
        encoder.write(image)
    encoder.close()
    data = bytearray(path.read_bytes())
    third = len(data) * 2 // 5
    data[third : third + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"frame 2 of video .*noise.mp4 is damaged; copy the data set again"):
        list(decode(path))
    with pytest.raises(DataError, match=r"video .*noise.mp4 is damaged at 0.200 s"):
        list(decode_at(path, 0.0, 10, 6))
    assert len(list(decode(path, 0, 2))) == 2 and len(list(decode(path, 4, 2))) == 2
