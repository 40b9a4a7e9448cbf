"""Data sets: what was recorded comes back, in the LeRobotDataset v3 layout, whatever happens to the recorder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actdistill_ros.contract.contract import CameraSpec
from actdistill_ros.contract.preprocess import policy_view
from actdistill_ros.data.lerobot import DataError, Dataset, Episode, Extra, Writer, finished_seeds, rebuild
from actdistill_ros.data.video import Encoder

CAMERAS = {"front": (32, 48), "wrist": (32, 32)}
EXTRAS = {"chunk": (8, 7), "aux": (6,), "labelled": Extra((), "bool")}
SENTENCES = ("pick up the red block", "put the blue block in the bowl")


def episode(seed: int, length: int | None = None) -> Episode:
    """Smooth images whose brightness tells seed and frame, and numbers that tell them exactly."""
    length = length or 3 + seed % 3
    t = np.arange(length)
    images = {}
    for name, (height, width) in CAMERAS.items():
        images[name] = np.empty((length, height, width, 3), np.uint8)
        images[name][:] = ((40 * seed + 20 * t) % 230 + 10)[:, None, None, None]
        images[name][:, :8, :8] = (220, 30, 30)
    number = (1000 * seed + t).astype(np.float32)
    return Episode(
        images=images,
        state=number[:, None] + np.arange(10, dtype=np.float32) / 16,
        action=number[:, None] + np.arange(7, dtype=np.float32) / 16,
        instruction=SENTENCES[seed % 2],
        seed=seed,
        extras={
            "chunk": number[:, None, None] + np.arange(56, dtype=np.float32).reshape(8, 7) / 64,
            "aux": number[:, None] + np.arange(6, dtype=np.float32) / 16,
            "labelled": t % 2 == 0,
        },
        meta={"task": "lift", "success": True},
    )


def writer(folder: Path, **changes) -> Writer:
    return Writer.open(
        folder, **{"cameras": CAMERAS, "fps": 10, "robot": "arx5", "extras": EXTRAS, "episodes_per_file": 2, **changes}
    )


@pytest.fixture
def recorded(tmp_path):
    with writer(tmp_path / "set") as out:
        for seed in range(5):
            out.add(episode(seed))
    return tmp_path / "set"


def test_every_column_comes_back_as_it_was_recorded(recorded):
    data = Dataset.open(recorded)
    episodes = [episode(seed) for seed in range(5)]
    assert len(data) == sum(map(len, episodes)) and len(data.episodes) == 5
    for name in ("state", "action"):
        column = data.columns("observation.state" if name == "state" else name)
        assert np.array_equal(column, np.concatenate([getattr(each, name) for each in episodes]))
    for name in EXTRAS:
        found = data.columns(name)
        expected = np.concatenate([each.extras[name] for each in episodes])
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert data.instructions() == [each.instruction for each in episodes]
    assert [row.seed for row in data.episodes] == list(range(5))
    assert data.episodes[3].meta == {"task": "lift", "success": True}


def test_frames_of_all_files_come_back_in_order_and_as_the_policy_sees_them(recorded):
    data = Dataset.open(recorded)
    for camera, (height, width) in CAMERAS.items():
        sent = np.concatenate([episode(seed).images[camera] for seed in range(5)])
        whole = data.frames(camera)
        assert whole.shape == sent.shape
        assert np.abs(whole.astype(int) - sent).mean() < 2
        spec = CameraSpec(camera, 16, height, width)
        small = np.stack([policy_view(image, spec) for image in sent])
        assert np.abs(data.frames(camera, size=16).astype(int) - small).mean() < 2


def test_one_episode_out_of_the_middle_of_a_file_is_the_one_that_was_recorded(recorded):
    data = Dataset.open(recorded)
    found, sent = data.episode(3), episode(3)
    assert np.array_equal(found.action, sent.action) and np.array_equal(found.extras["chunk"], sent.extras["chunk"])
    assert found.instruction == sent.instruction and found.seed == 3
    for camera in CAMERAS:
        assert found.images[camera].shape == sent.images[camera].shape
        assert np.abs(found.images[camera].astype(int) - sent.images[camera]).mean() < 2


def test_a_frame_knows_its_episode(recorded):
    data = Dataset.open(recorded)
    assert np.array_equal(data.episode_index(np.arange(len(data))), data.columns("episode_index"))


def test_decoded_frames_are_kept_until_the_videos_change(recorded):
    data = Dataset.open(recorded)
    first = data.frames("wrist", size=16)
    (kept,) = (recorded / "cache").iterdir()
    stamp = kept.stat().st_mtime_ns
    assert np.array_equal(data.frames("wrist", size=16), first) and kept.stat().st_mtime_ns == stamp
    with writer(recorded) as out:
        out.add(episode(7))
    grown = Dataset.open(recorded).frames("wrist", size=16)
    assert len(grown) == len(first) + len(episode(7))
    assert np.array_equal(grown[: len(first)], first)
    assert [path.name for path in (recorded / "cache").iterdir()] != [kept.name]
    assert len(list((recorded / "cache").iterdir())) == 1


def test_other_videos_of_the_same_length_are_decoded_again(recorded):
    data = Dataset.open(recorded)
    first = data.frames("wrist", size=16).copy()
    videos = recorded / "videos/observation.images.wrist/chunk-000"
    encoder = Encoder(videos / "other.mp4", 32, 32, fps=10)
    for _ in range(len(episode(0)) + len(episode(1))):
        encoder.write(np.full((32, 32, 3), 77, np.uint8))
    encoder.close()
    (videos / "other.mp4").replace(videos / "file-000.mp4")
    changed = data.frames("wrist", size=16)
    assert abs(int(changed[0].mean()) - 77) < 3
    last = len(episode(4))
    assert np.array_equal(changed[-last:], first[-last:])


def test_frames_without_cache_leave_the_folder_alone(recorded):
    Dataset.open(recorded).frames("wrist", size=16, cache=False)
    assert not (recorded / "cache").exists()


def test_info_says_what_version_3_of_the_layout_says(recorded):
    info = json.loads((recorded / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["robot_type"] == "arx5" and info["fps"] == 10
    assert (info["total_episodes"], info["total_tasks"], info["splits"]) == (5, 2, {"train": "0:5"})
    assert info["data_path"].format(chunk_index=0, file_index=1) == "data/chunk-000/file-001.parquet"
    video = info["video_path"].format(video_key="observation.images.front", chunk_index=0, file_index=2)
    assert video == "videos/observation.images.front/chunk-000/file-002.mp4" and (recorded / video).is_file()
    features = info["features"]
    assert features["observation.images.front"]["dtype"] == "video"
    assert features["observation.images.front"]["shape"] == [32, 48, 3]
    assert features["chunk"] == {"dtype": "float32", "shape": [8, 7], "names": None}
    assert features["labelled"] == {"dtype": "bool", "shape": [1], "names": None}
    assert features["action"]["names"][6] == "gripper_opening"
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert features[name]["shape"] == [1]


def test_data_files_hold_the_features_and_count_over_the_whole_set(recorded):
    features = json.loads((recorded / "meta/info.json").read_text())["features"]
    tables = [pq.read_table(path) for path in sorted((recorded / "data").rglob("*.parquet"))]
    assert len(tables) == 3
    assert set(tables[0].column_names) == {name for name, feature in features.items() if feature["dtype"] != "video"}
    index = np.concatenate([table["index"].to_numpy() for table in tables])
    assert np.array_equal(index, np.arange(sum(len(episode(seed)) for seed in range(5))))
    first = tables[1].slice(1, 1).to_pylist()[0]
    assert (first["episode_index"], first["frame_index"], first["task_index"]) == (2, 1, 0)
    assert first["timestamp"] == pytest.approx(0.1)
    assert np.shape(first["chunk"]) == (8, 7) and len(first["observation.state"]) == 10


def test_the_episodes_table_points_into_data_and_videos(recorded):
    rows = pq.read_table(recorded / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    lengths = [len(episode(seed)) for seed in range(5)]
    assert [row["length"] for row in rows] == lengths
    assert [row["dataset_from_index"] for row in rows] == [0, *np.cumsum(lengths)[:-1]]
    assert [row["dataset_to_index"] for row in rows] == list(np.cumsum(lengths))
    assert [row["data/file_index"] for row in rows] == [0, 0, 1, 1, 2]
    key = "videos/observation.images.wrist"
    assert rows[3][f"{key}/file_index"] == 1 and rows[3][f"{key}/chunk_index"] == 0
    assert rows[3][f"{key}/from_timestamp"] == pytest.approx(lengths[2] / 10)
    assert rows[3][f"{key}/to_timestamp"] == pytest.approx((lengths[2] + lengths[3]) / 10)
    assert rows[3]["tasks"] == [SENTENCES[1]]


def test_tasks_are_numbered_once_each_with_the_sentence_as_index(recorded):
    table = pq.read_table(recorded / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": list(SENTENCES)}
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_cover_numbers_and_images(recorded):
    stats = json.loads((recorded / "meta/stats.json").read_text())
    actions = Dataset.open(recorded).columns("action")
    assert np.allclose(stats["action"]["mean"], actions.mean(0)) and stats["action"]["count"] == [len(actions)]
    assert np.allclose(stats["action"]["q99"], np.quantile(actions, 0.99, axis=0))
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert 0 < stats["observation.images.front"]["mean"][0][0][0] < 1


def test_recording_goes_on_where_it_stopped(recorded):
    with writer(recorded) as out:
        assert out.seeds == set(range(5))
        out.add(episode(5))
    data = Dataset.open(recorded)
    assert [row.seed for row in data.episodes] == list(range(6))
    assert np.array_equal(data.episode(5).action, episode(5).action)


RECORD_UNTIL_KILLED = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_data_lerobot import episode, writer
out = writer({folder!r})
for seed in range({first}, {first} + 100):
    out.add(episode(seed))
    print(seed, flush=True)
    sys.stdin.readline()
"""


def start_recorder(folder: Path, first: int) -> subprocess.Popen:
    tests = Path(__file__).parent
    code = RECORD_UNTIL_KILLED.format(tests=str(tests), root=str(tests.parent), folder=str(folder), first=first)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def advance(recorder: subprocess.Popen, episodes: int) -> None:
    for _ in range(episodes):
        assert recorder.stdout.readline()
        recorder.stdin.write("\n")
        recorder.stdin.flush()


def kill(recorder: subprocess.Popen) -> None:
    os.killpg(recorder.pid, signal.SIGKILL)
    recorder.wait(10)
    recorder.stdin.close()
    recorder.stdout.close()


def test_a_killed_recorder_loses_only_its_unfinished_file(tmp_path):
    folder = tmp_path / "set"
    recorder = start_recorder(folder, first=0)
    advance(recorder, 2)
    assert recorder.stdout.readline() == "2\n"  # the third episode is in a file of two that is not finished
    kill(recorder)
    assert finished_seeds(folder) == {0, 1}
    with pytest.raises(DataError, match="has no episodes yet; .* repeat its `actdistill collect`"):
        Dataset.open(folder)  # the recorder died before it could write meta/
    with writer(folder) as out:
        assert out.seeds == {0, 1}
        out.add(episode(2))
    data = Dataset.open(folder)
    assert [row.seed for row in data.episodes] == [0, 1, 2]
    assert np.array_equal(data.columns("action"), np.concatenate([episode(seed).action for seed in range(3)]))
    assert len(data.frames("front", cache=False)) == len(data)
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name or "claim" in path.name]


def test_two_recorders_at_once_make_one_data_set_even_if_one_dies(tmp_path):
    folder = tmp_path / "set"
    recorders = [start_recorder(folder, first=0), start_recorder(folder, first=100)]
    for _ in range(3):
        for recorder in recorders:
            advance(recorder, 1)
    kill(recorders[0])
    with writer(folder) as out:  # must not take the living one's unfinished file for abandoned
        out.add(episode(50))
    advance(recorders[1], 1)
    kill(recorders[1])
    rebuild(folder)
    data = Dataset.open(folder)
    assert {row.seed for row in data.episodes} >= {0, 1, 50, 100, 101, 102, 103}
    for row in data.episodes:
        assert np.array_equal(data.columns("action")[row.start : row.stop], episode(row.seed).action)
        assert (
            np.abs(data.frames("wrist")[row.start : row.stop].astype(int) - episode(row.seed).images["wrist"]).mean()
            < 2
        )


def test_an_interrupt_in_the_middle_of_an_episode_keeps_the_ones_before_it(tmp_path):
    class Interrupting:
        """Image frames that end in Ctrl-C."""

        def __init__(self, images):
            self.images, self.shape, self.dtype = images, images.shape, images.dtype

        def __array__(self, *_, **__):
            return self.images

        def __iter__(self):
            yield self.images[0]
            raise KeyboardInterrupt

    out = writer(tmp_path / "set", episodes_per_file=9)
    out.add(episode(0))
    broken = episode(1)
    broken.images["wrist"] = Interrupting(broken.images["wrist"])
    with pytest.raises(KeyboardInterrupt):
        out.add(broken)
    out.add(episode(2))
    out.close()
    data = Dataset.open(tmp_path / "set")
    assert [row.seed for row in data.episodes] == [0, 2]
    sent = np.concatenate([episode(0).images["wrist"], episode(2).images["wrist"]])
    assert np.abs(data.frames("wrist").astype(int) - sent).mean() < 2


def test_an_episode_that_does_not_fit_is_refused_and_harms_nothing(tmp_path):
    out = writer(tmp_path / "set")
    out.add(episode(0))
    bad = episode(1)
    bad.action[1, 2] = np.nan
    with pytest.raises(DataError, match="action has values that are not finite in frame 1"):
        out.add(bad)
    short = episode(1)
    short.images["front"] = short.images["front"][:-1]
    with pytest.raises(DataError, match=r"images\[front\] is \(3, 32, 48, 3\), expected \(4, 32, 48, 3\)"):
        out.add(short)
    del short.images["front"]
    with pytest.raises(DataError, match=r"cameras \['wrist'\], the data set \['front', 'wrist'\]"):
        out.add(short)
    out.close()
    assert [row.seed for row in Dataset.open(tmp_path / "set").episodes] == [0]


def test_other_features_or_an_unwanted_resume_are_refused(recorded):
    with pytest.raises(DataError, match="already holds a data set"):
        writer(recorded, resume=False)
    with pytest.raises(DataError, match="has fps 10, to be added is 30"):
        writer(recorded, fps=30)
    with pytest.raises(DataError, match="has aux as"):
        writer(recorded, extras={**EXTRAS, "aux": (9,)})


def test_missing_and_broken_files_are_named(recorded, tmp_path):
    with pytest.raises(DataError, match=r"is no data set: meta/info.json is missing"):
        Dataset.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="has no column 'reward'; it has observation.state, action"):
        Dataset.open(recorded).columns("reward")
    with pytest.raises(DataError, match="has no camera 'top'; it has front, wrist"):
        Dataset.open(recorded).frames("top")
    video = recorded / "videos/observation.images.front/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match=r"file-001\.mp4 cannot be decoded|file-001\.mp4 gave"):
        Dataset.open(recorded).frames("front")
    video.unlink()
    with pytest.raises(DataError, match=r"file-001\.mp4 is missing"):
        Dataset.open(recorded).frames("front")
    data = recorded / "data/chunk-000/file-002.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"file-002\.parquet cannot be read"):
        Dataset.open(recorded).columns("action")
    data.unlink()
    with pytest.raises(DataError, match=r"data files \[2\] are missing"):
        Dataset.open(recorded)
    (recorded / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(DataError, match=r"says version 'v2.1', .* have 'v3.0'; .*dataset import"):
        Dataset.open(recorded)


def test_a_data_set_that_is_being_recorded_says_so(recorded):
    out = writer(recorded)
    out.add(episode(5))
    out.add(episode(6))
    with pytest.raises(
        DataError, match=r"has data files \[3\] that meta/ does not know; repeat its `actdistill collect`"
    ):
        Dataset.open(recorded)
    out.close()
    assert len(Dataset.open(recorded).episodes) == 7


def test_a_data_set_without_episodes_says_so(tmp_path):
    writer(tmp_path / "set").close()
    with pytest.raises(DataError, match="has no episodes yet"):
        Dataset.open(tmp_path / "set")
