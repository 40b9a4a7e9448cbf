"""RLDS data sets: what tensorflow-datasets wrote comes back, without TensorFlow, and whatever is wrong is named."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_parts import CAMERAS, LENGTHS, episode

from actdistill_ros.data import importing
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.index import read_info
from actdistill_ros.data.reader import Dataset
from actdistill_ros.data.rlds import RldsSource

SAMPLE = Path(__file__).parent / "data/rlds"
NUMBER = "episode_metadata/number"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(SAMPLE, tmp_path / "1.0.0"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def read(source: RldsSource, *keys: str) -> list:
    return list(source.read([*keys, NUMBER], lambda _: True))


def test_every_column_of_every_episode_comes_back_as_it_was_written():
    source = RldsSource.open(SAMPLE)
    found = read(
        source, "observation/state", "action", "action_packed", "language_instruction", "is_last", "step_number"
    )
    assert [each.index for each in found] == [0, 1, 2] and source.episodes == 3
    assert sorted(int(each.values[NUMBER][0]) for each in found) == [0, 1, 2]
    for each in found:
        sent = episode(int(each.values[NUMBER][0]))
        assert each.length == len(sent.state)
        assert np.array_equal(each.values["observation/state"], sent.state)
        assert np.array_equal(each.values["action"], sent.action)
        assert np.array_equal(each.values["action_packed"], sent.action)  # float64, compressed
        assert set(each.values["language_instruction"]) == {sent.sentence}
        assert each.values["is_last"].tolist() == [0] * (each.length - 1) + [1]
        assert each.values["step_number"].tolist() == list(range(each.length))


def test_images_are_decoded_as_rgb_png_exactly_and_jpeg_nearly():
    for each in read(RldsSource.open(SAMPLE), *(f"observation/{name}" for name in CAMERAS)):
        sent = episode(int(each.values[NUMBER][0]))
        found = {name: np.stack(list(each.frames(f"observation/{name}"))) for name in CAMERAS}
        assert np.array_equal(found["hand"], sent.images["hand"])
        assert np.abs(found["top"].astype(int) - sent.images["top"]).mean() < 2
        assert np.abs(found["top"][0, 3:7, 4:12].astype(int) - (30, 40, 210)).mean() < 20


def test_columns_say_their_kind_and_shape():
    fields = RldsSource.open(SAMPLE).fields
    assert fields["observation/top"].kind == "image" and fields["observation/top"].shape == (48, 64, 3)
    assert fields["action"].kind == "number" and fields["action"].shape == (7,)
    assert fields["language_instruction"].kind == "text" and fields["episode_metadata/file_path"].kind == "text"


@pytest.mark.parametrize("given", ["name/1.0.0", "name"])
@pytest.mark.parametrize("left", ["features.json", "dataset_info.json", "*.tfrecord*"])
def test_an_rlds_folder_where_one_of_ours_is_expected_is_recognised_and_the_import_named(tmp_path, given, left):
    folder = tmp_path / "name/1.0.0"
    folder.mkdir(parents=True)
    for path in SAMPLE.glob(left):
        shutil.copy(path, folder)
    with pytest.raises(DataError, match="is no data set of this package but an RLDS one, as ") as refusal:
        Dataset.open(tmp_path / given)
    assert f"`actdistill dataset import --from {folder} --format rlds --mapping FILE.yaml --out" in str(refusal.value)


def test_the_command_that_a_refused_rlds_folder_names_is_one_that_import_takes():
    with pytest.raises(DataError) as refusal:
        read_info(SAMPLE)
    words = re.search("`actdistill dataset import (.*?)`", str(refusal.value)).group(1).split()
    parser = argparse.ArgumentParser()
    importing.add_arguments(parser)
    args = parser.parse_args(words)
    assert (args.source, args.format) == (SAMPLE, "rlds")


def test_only_the_wanted_episodes_are_read():
    source = RldsSource.open(SAMPLE)
    assert [each.index for each in source.read([NUMBER, "action"], lambda index: index == 2)] == [2]


def test_reading_needs_no_tensorflow():
    code = (
        "import sys\nfrom pathlib import Path\nfrom actdistill_ros.data.rlds import RldsSource\n"
        f"print(len(list(RldsSource.open(Path({str(SAMPLE)!r})).read(['action'], lambda _: True))))\n"
        "assert not [name for name in sys.modules if name.startswith('tensorflow')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{len(LENGTHS)}\n", done.stderr


def test_the_folder_above_the_version_is_refused_with_the_right_one(copy):
    with pytest.raises(DataError, match=rf"dataset_info\.json is missing; did you mean {copy}\?"):
        RldsSource.open(copy.parent)


def test_an_unknown_split_lists_those_that_are_there():
    with pytest.raises(DataError, match="has no split 'val'; it has train"):
        RldsSource.open(SAMPLE, "val")


def test_a_missing_shard_is_named(copy):
    (copy / "made_up_arm-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(DataError, match="lacks 1 of 2 shards, first made_up_arm-train.tfrecord-00001-of-00002"):
        RldsSource.open(copy)


def test_a_shard_with_fewer_episodes_than_promised_is_named_before_anything_is_read(copy):
    shard = copy / "made_up_arm-train.tfrecord-00000-of-00002"
    length = int.from_bytes(shard.read_bytes()[:8], "little")
    shard.write_bytes(shard.read_bytes()[: length + 16])
    with pytest.raises(DataError, match=r"00000-of-00002 has 1 episodes, dataset_info\.json promises 2"):
        RldsSource.open(copy).check([])


def test_a_feature_that_the_records_lack_is_named_with_those_they_have(copy):
    change(copy / "features.json", '"step_number"', '"step_counter"')
    with pytest.raises(
        DataError, match=r"lacks steps/step_counter, which features\.json promises; it has .*step_number"
    ):
        read(RldsSource.open(copy), "step_counter")


def test_a_feature_of_another_shape_is_named(copy):
    features = json.loads((copy / "features.json").read_text())
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    steps["action"]["tensor"]["shape"]["dimensions"] = ["5"]
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match=r"steps/action of episode 0 .* has 42 values, not a multiple of the 5"):
        read(RldsSource.open(copy), "action")
    steps["action"]["tensor"]["shape"]["dimensions"] = ["14"]
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match="has columns of different or no length"):
        read(RldsSource.open(copy), "action", "language_instruction")


def test_descriptions_that_are_cut_off_or_of_another_kind_are_named(copy):
    text = (copy / "features.json").read_text()
    (copy / "features.json").write_text(text[:50])
    with pytest.raises(DataError, match=r"features\.json is no JSON .* cut off or damaged"):
        RldsSource.open(copy)
    (copy / "features.json").write_text('{"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}')
    with pytest.raises(DataError, match="is not as tensorflow-datasets 4 writes it"):
        RldsSource.open(copy)
    (copy / "features.json").write_text(text.replace('"steps"', '"frames"'))
    with pytest.raises(DataError, match="has no data set `steps`"):
        RldsSource.open(copy)
    (copy / "features.json").write_text(text)
    change(copy / "dataset_info.json", '"tfrecord"', '"array_record"')
    with pytest.raises(DataError, match="is stored as array_record, read are tfrecord files"):
        RldsSource.open(copy)
