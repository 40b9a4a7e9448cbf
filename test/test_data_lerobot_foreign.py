"""LeRobot data sets of others: what the lerobot package wrote, v2.1 and v3.0, comes back, and faults are named."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_parts import ACTION_NAMES, CAMERAS, LENGTHS, SENTENCES, STATE_NAMES, episode

from actdistill_ros.data.episode import DataError
from actdistill_ros.data.lerobot_source import LeRobotSource

DATA = Path(__file__).parent / "data"
LAYOUTS = ("lerobot_v2_1_video", "lerobot_v2_1_image", "lerobot_v3_0_video", "lerobot_v3_0_image")
ALL = ("observation.state", "action", "task", *(f"observation.images.{name}" for name in CAMERAS))


@pytest.fixture
def copy(tmp_path):
    return lambda layout: Path(shutil.copytree(DATA / layout, tmp_path / layout))


def read(folder: Path, *keys: str) -> list:
    return list(LeRobotSource.open(folder).read(keys or ALL, lambda _: True))


def data_files(folder: Path) -> list[Path]:
    return sorted((folder / "data").rglob("*.parquet"))


def rewrite(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_and_sentences_come_back_exactly(layout):
    source = LeRobotSource.open(DATA / layout)
    assert (source.episodes, source.frames, source.fps, source.robot) == (3, sum(LENGTHS), 10.0, "made_up_arm")
    source.check(ALL)
    found = list(source.read(ALL, lambda _: True))
    assert [(each.index, each.length) for each in found] == list(enumerate(LENGTHS))
    for each in found:
        sent = episode(each.index)
        assert np.array_equal(each.values["observation.state"], sent.state)
        assert np.array_equal(each.values["action"], sent.action)
        assert set(each.values["task"]) == {SENTENCES[each.index]}


@pytest.mark.parametrize("layout", ["lerobot_v2_1_image", "lerobot_v3_0_image"])
def test_every_image_is_the_one_that_was_recorded(layout):
    for each in read(DATA / layout):
        for camera, sent in episode(each.index).images.items():
            assert np.array_equal(np.stack(list(each.frames(f"observation.images.{camera}"))), sent)


@pytest.mark.parametrize("layout", ["lerobot_v2_1_video", "lerobot_v3_0_video"])
def test_every_video_frame_is_the_one_that_lerobot_itself_sees(layout):
    decoded = np.load(DATA / layout / "decoded_by_lerobot.npz")
    found = read(DATA / layout)
    for camera in CAMERAS:
        ours = np.concatenate([np.stack(list(each.frames(f"observation.images.{camera}"))) for each in found])
        assert ours.shape == decoded[camera].shape
        assert np.abs(ours.astype(int) - decoded[camera]).max() <= 2
        sent = np.concatenate([episode(number).images[camera] for number in range(3)])
        assert np.abs(ours.astype(int) - sent).mean() < 5  # AV1 at lerobot's settings, tiny


def test_elements_have_their_names_whether_listed_or_grouped():
    fields = LeRobotSource.open(DATA / "lerobot_v3_0_video").fields
    assert fields["observation.state"].names == STATE_NAMES and fields["action"].names == ACTION_NAMES


def test_images_declared_channels_first_are_the_same_images(copy):
    folder = copy("lerobot_v3_0_video")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"]["shape"] = [3, 48, 64]
    (folder / "meta/info.json").write_text(json.dumps(info))
    assert LeRobotSource.open(folder).fields["observation.images.top"].shape == (48, 64, 3)


def test_columns_of_an_unknown_kind_are_no_obstacle(copy):
    folder = copy("lerobot_v2_1_image")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.sound"] = {"dtype": "audio", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info))
    assert "observation.sound" not in LeRobotSource.open(folder).fields and len(read(folder)) == 3


def test_only_the_wanted_episodes_are_read():
    source = LeRobotSource.open(DATA / "lerobot_v3_0_video")
    assert [each.index for each in source.read(["action"], lambda index: index != 1)] == [0, 2]


def test_an_image_stored_as_a_file_beside_the_table_is_found(copy):
    folder = copy("lerobot_v2_1_image")
    path, images = data_files(folder)[1], episode(1).images["top"]
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"images/{number}.png"), image[..., ::-1])
    entries = [{"bytes": None, "path": f"images/{number}.png"} for number in range(len(images))]
    kind = pq.read_table(path)["observation.images.top"].type
    rewrite(path, "observation.images.top", pa.array(entries, kind))
    found = np.stack(list(read(folder)[1].frames("observation.images.top")))
    assert np.array_equal(found, images)
    (folder / "images/2.png").unlink()
    with pytest.raises(DataError, match=r"has an image without bytes whose file .*images/2\.png is missing"):
        list(read(folder)[1].frames("observation.images.top"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_cut_off_data_files_are_named_before_anything_is_read(copy, layout):
    folder = copy(layout)
    path = data_files(folder)[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"data file .*{path.name} is not whole .* cut off"):
        LeRobotSource.open(folder).check(["action"])
    path.unlink()
    with pytest.raises(DataError, match=rf"data file .*{path.name} is missing"):
        LeRobotSource.open(folder).check(["action"])


@pytest.mark.parametrize("layout", ["lerobot_v2_1_video", "lerobot_v3_0_video"])
def test_missing_and_cut_off_videos_are_named_before_anything_is_read(copy, layout):
    folder = copy(layout)
    path = max(path for path in folder.rglob("*.mp4") if "top" in str(path))
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=rf"video .*{path.name} is not whole"):
            LeRobotSource.open(folder).check(ALL)
    LeRobotSource.open(folder).check(["action", "observation.images.hand"])  # what is not asked for may be missing
    path.unlink()
    with pytest.raises(DataError, match=rf"video .*{path.name} is missing"):
        LeRobotSource.open(folder).check(ALL)


def test_a_video_with_too_few_frames_or_of_another_rate_is_named(copy):
    folder = copy("lerobot_v2_1_video")
    videos = folder / "videos/chunk-000/observation.images.top"
    shutil.copy(videos / "episode_000001.mp4", videos / "episode_000002.mp4")
    with pytest.raises(DataError, match=r"episode_000002\.mp4 gave 5 frames from 0\.000 s on, expected 7"):
        list(read(folder)[2].frames("observation.images.top"))
    info = folder / "meta/info.json"
    info.write_text(info.read_text().replace('"fps": 10', '"fps": 20'))
    for path in data_files(folder):
        rewrite(path, "timestamp", pa.array(pq.read_table(path)["frame_index"].to_numpy() / 20, pa.float32()))
    with pytest.raises(DataError, match=r"has a frame at 0\.100 s where one is expected at 0\.050 s"):
        list(read(folder)[0].frames("observation.images.top"))


def test_another_rate_than_the_times_say_is_named(copy):
    folder = copy("lerobot_v3_0_image")
    info = folder / "meta/info.json"
    info.write_text(info.read_text().replace('"fps": 10', '"fps": 30'))
    with pytest.raises(DataError, match=r"frame 5 of episode 0 .* has time 0\.500 s, expected 0\.167 s at 30 frames"):
        read(folder)


@pytest.mark.parametrize("layout", ["lerobot_v2_1_image", "lerobot_v3_0_image"])
def test_columns_that_are_not_as_described_are_named(copy, layout):
    folder = copy(layout)
    path = data_files(folder)[0]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["action"]), path)
    with pytest.raises(DataError, match=rf"{path.name} has no column action; it has .*observation\.state"):
        read(folder)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(6 * len(table), np.float32)), 6)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", narrow), path)
    with pytest.raises(
        DataError, match=r"action of episode 0 .* has 6 values per frame, meta/info\.json promises \[7\]"
    ):
        read(folder)


def test_frames_that_are_missing_from_the_table_are_named(copy):
    folder = copy("lerobot_v3_0_image")
    path = data_files(folder)[0]
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 8), path)
    with pytest.raises(DataError, match=r"episode 1 in .* has 2 frames, meta/ promises 5"):
        read(folder)


def test_a_picture_that_was_cut_off_is_named_not_filled_with_grey(copy):
    folder = copy("lerobot_v2_1_image")
    path = data_files(folder)[0]
    column = pq.read_table(path)["observation.images.top"]
    entries = column.to_pylist()
    entries[3]["bytes"] = entries[3]["bytes"][:-30]
    rewrite(path, "observation.images.top", pa.array(entries, column.type))
    with pytest.raises(DataError, match=r"observation\.images\.top, frame 3 of episode 0 .* cannot be decoded"):
        list(read(folder)[0].frames("observation.images.top"))
    entries[3]["bytes"] = b"GIF89a"
    rewrite(path, "observation.images.top", pa.array(entries, column.type))
    with pytest.raises(DataError, match="is neither JPEG nor PNG"):
        list(read(folder)[0].frames("observation.images.top"))


def test_descriptions_that_are_missing_damaged_or_contradict_each_other_are_named(copy, tmp_path):
    with pytest.raises(DataError, match=r"is no LeRobot data set: meta/info\.json is missing"):
        LeRobotSource.open(tmp_path)
    folder = copy("lerobot_v2_1_video")
    episodes = folder / "meta/episodes.jsonl"
    text = episodes.read_text()
    episodes.write_text(text[:-20])
    with pytest.raises(DataError, match=r"episodes\.jsonl is cut off or damaged"):
        LeRobotSource.open(folder)
    episodes.write_text("".join(text.splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match="promises 3 episodes of 18 frames, the list of episodes has 2 of 11"):
        LeRobotSource.open(folder)
    episodes.unlink()
    with pytest.raises(DataError, match=r"episodes\.jsonl is missing"):
        LeRobotSource.open(folder)
    info = folder / "meta/info.json"
    info.write_text(info.read_text().replace('"v2.1"', '"v1.6"'))
    with pytest.raises(DataError, match="says version 'v1.6', read are v2.0, v2.1, v3.0"):
        LeRobotSource.open(folder)
    folder = copy("lerobot_v3_0_image")
    shutil.rmtree(folder / "meta/episodes")
    with pytest.raises(DataError, match="has no meta/episodes/chunk-"):
        LeRobotSource.open(folder)
