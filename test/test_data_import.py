"""`actdistill dataset import`: a data set from elsewhere becomes one that trains, whatever happens on the way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from foreign_parts import LENGTHS, episode, mapping
from test_data_lerobot import CAMERAS, writer
from test_data_lerobot import episode as ours

from actdistill_ros import cli
from actdistill_ros.contract import contract
from actdistill_ros.contract.chunk import ACTION_NAMES
from actdistill_ros.contract.contract import STATE_NAMES
from actdistill_ros.contract.preprocess import denormalise, normalise
from actdistill_ros.data import statistics
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.lerobot import Dataset, Episode

DATA = Path(__file__).parent / "data"
LAYOUTS = ("lerobot_v2_1_video", "lerobot_v2_1_image", "lerobot_v3_0_video", "lerobot_v3_0_image", "rlds")
OURS = {
    "robot": "arx5",
    "fps": 10,
    "cameras": {name: {"from": f"observation.images.{name}"} for name in CAMERAS},
    "instruction": "task",
    "state": {
        "position": {"from": "observation.state", "columns": list(STATE_NAMES[:3])},
        "rotation": {"from": "observation.state", "columns": list(STATE_NAMES[3:9]), "as": "columns"},
        "gripper": {"from": "observation.state", "columns": ["gripper_opening"], "closed": 0, "open": 1},
    },
    "action": {"convention": "product", "from": "action", "columns": list(ACTION_NAMES)},
}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """The command line that imports `source` into tmp_path/set."""

    def make(source: Path, body: dict, *more: str) -> list[str]:
        path = tmp_path / "mapping.json"
        path.write_text(json.dumps(body))
        kind = "rlds" if (source / "features.json").exists() else "lerobot"
        told = ["--from", source, "--format", kind, "--mapping", path, "--out", tmp_path / "set", *more]
        return ["dataset", "import", *map(str, told)]

    return make


@pytest.fixture
def copy(tmp_path):
    return lambda layout: Path(shutil.copytree(DATA / layout, tmp_path / layout))


def plausible(seed: int) -> Episode:
    """An episode of `test_data_lerobot` with a state that is a pose and actions that move it."""
    sent = ours(seed)
    action = (0.01 * np.sin(np.arange(len(sent) * 7) + seed)).reshape(-1, 7).astype(np.float32)
    action[:, 6] = np.arange(len(sent)) % 2
    state = np.zeros((len(sent), 10), np.float32)
    state[1:, :3] = np.cumsum(action[:-1, :3], axis=0)
    state[:, (3, 7, 9)] = 1.0
    return Episode(sent.images, state, action, sent.instruction, seed, sent.extras, sent.meta)


@pytest.fixture
def long_set(tmp_path):
    """A LeRobot v3 data set of 14 episodes."""
    with writer(tmp_path / "long") as out:
        for seed in range(14):
            out.add(plausible(seed))
    return tmp_path / "long"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_same_data_set(words, tmp_path, layout):
    assert cli.main(words(DATA / layout, mapping(rlds=layout == "rlds"))) == 0
    data = Dataset.open(tmp_path / "set")
    assert data.cameras == ("front", "wrist") and data.info["fps"] == 10 and data.info["robot_type"] == "made_up_arm"
    sent = [episode(number) for number in range(3)]
    assert data.instructions() == [each.sentence for each in sent] and len(data) == sum(LENGTHS)
    assert np.allclose(data.columns("action"), np.concatenate([each.action for each in sent]), atol=1e-6)
    assert np.allclose(data.columns("observation.state")[:, :3], np.concatenate([s.state[:, :3] for s in sent]))
    for name, camera in (("front", "top"), ("wrist", "hand")):
        images = np.concatenate([each.images[camera] for each in sent])
        assert np.abs(data.frames(name, cache=False).astype(int) - images).mean() < 7
    assert [row.meta["source_episode"] for row in data.episodes] == [0, 1, 2]


def test_a_data_set_of_this_package_is_imported_unchanged(words, long_set, tmp_path):
    assert cli.main(words(long_set, OURS)) == 0
    before, after = Dataset.open(long_set), Dataset.open(tmp_path / "set")
    assert after.instructions() == before.instructions()
    for name in ("observation.state", "action", "episode_index", "timestamp"):
        assert np.allclose(after.columns(name), before.columns(name), atol=1e-6)
    for camera in CAMERAS:
        difference = after.frames(camera, cache=False).astype(int) - before.frames(camera, cache=False)
        assert np.abs(difference).mean() < 1


def test_it_says_how_much_it_will_take_and_how_far_it_is(words, capsys, tmp_path):
    report = tmp_path / "report.json"
    assert cli.main(words(DATA / "rlds", mapping(rlds=True), "--json", str(report))) == 0
    told = capsys.readouterr().out
    assert "3 episodes, 0 are there, 3 to import" in told and "MB on disk" in told and "of memory" in told
    assert "3/3 episodes, 18 frames" in told and "0 s left" in told
    body = json.loads(report.read_text())
    assert (body["episodes"], body["frames"], body["imported"]) == (3, 18, 3)
    assert {"device", "threads", "versions", "seconds"} <= body.keys()
    assert body["agreement"]["correlation"] > 0.99 and body["agreement"]["length_ratio"] == pytest.approx(1, abs=0.02)


def test_the_estimate_is_near_what_is_written(words, long_set, tmp_path, capsys):
    assert cli.main(words(long_set, OURS)) == 0
    frames = int(capsys.readouterr().out.partition("about ")[2].partition(" frames")[0])
    assert frames == pytest.approx(len(Dataset.open(tmp_path / "set")), rel=0.2)


def test_a_dry_run_checks_and_estimates_and_writes_nothing(words, capsys, tmp_path):
    assert cli.main(words(DATA / "rlds", mapping(rlds=True), "--dry-run")) == 0
    assert "MB on disk" in capsys.readouterr().out and not (tmp_path / "set").exists()


def test_a_full_disk_is_found_before_anything_is_written(words, monkeypatch, capsys, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10, 10))
    assert cli.main(words(DATA / "rlds", mapping(rlds=True))) == 2
    assert "make room, or give the cameras a smaller size" in capsys.readouterr().err
    assert not list(tmp_path.glob("set/data/**/*.parquet"))


def test_wrong_signs_are_warned_of(words, capsys):
    body = mapping()
    body["action"]["position"]["scale"] = -1.0
    assert cli.main(words(DATA / "lerobot_v3_0_image", body)) == 0
    told = capsys.readouterr().out
    assert "correlation -1.00" in told and "warning: that is not what right units, signs and frames give" in told


IMPORT_STEP_BY_STEP = """
import sys
from actdistill_ros import cli
from actdistill_ros.data import importing
convert = importing.episodes
def stepwise(*args):
    for number, found in enumerate(convert(*args)):
        print("at", number, flush=True)
        sys.stdin.readline()
        yield found
importing.episodes = stepwise
cli.main({words!r})
"""


def test_a_killed_import_goes_on_and_ends_as_if_it_had_not_been(words, long_set, tmp_path, capsys):
    command = words(long_set, OURS)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORT_STEP_BY_STEP.format(words=command)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    answered = 0
    while not (tmp_path / "set/data/chunk-000/file-000.parquet").exists() or answered < 13:
        line = process.stdout.readline()
        assert line, "the import ended by itself"
        if line.startswith("at"):
            answered += 1
            process.stdin.write("\n")
            process.stdin.flush()
    assert cli.main(command) == 2 and "another import into" in capsys.readouterr().err
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    process.stdin.close()
    process.stdout.close()
    with pytest.raises(DataError, match="has no episodes yet; .* `actdistill dataset import`"):
        Dataset.open(tmp_path / "set")
    assert cli.main(command) == 0
    resumed = Dataset.open(tmp_path / "set")
    shutil.move(tmp_path / "set", tmp_path / "resumed")
    assert cli.main(command) == 0
    whole, resumed = Dataset.open(tmp_path / "set"), Dataset.open(tmp_path / "resumed")
    for name in ("observation.state", "action", "chunk", "episode_index", "index", "task_index"):
        assert np.array_equal(whole.columns(name), resumed.columns(name))
    assert np.array_equal(whole.frames("front", cache=False), resumed.frames("front", cache=False))
    assert statistics.load(whole.folder) == statistics.load(resumed.folder)
    assert not [path for path in resumed.folder.rglob("*") if "unfinished" in path.name or "claim" in path.name]


def test_a_finished_import_has_nothing_left_to_do(words, capsys, tmp_path):
    command = words(DATA / "rlds", mapping(rlds=True))
    assert cli.main(command) == 0
    stamp = (tmp_path / "set/data/chunk-000/file-000.parquet").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert "3 are there, 0 to import" in capsys.readouterr().out
    assert (tmp_path / "set/data/chunk-000/file-000.parquet").stat().st_mtime_ns == stamp


def test_another_mapping_or_source_is_not_mixed_into_an_import(words, capsys, copy, tmp_path):
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping())) == 0
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping(last_step="drop"))) == 2
    assert "was imported from another mapping" in capsys.readouterr().err
    assert cli.main(words(DATA / "lerobot_v2_1_image", mapping())) == 2
    assert "was imported from another source" in capsys.readouterr().err
    assert len(Dataset.open(tmp_path / "set").episodes) == 3


def test_frames_are_labelled_with_as_many_actions_as_the_policy_gives(words, capsys, tmp_path):
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping(), "--chunk", "16")) == 0
    assert Dataset.open(tmp_path / "set").columns("chunk").shape == (sum(LENGTHS), 16, 7)
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping(), "--chunk", "4")) == 2
    assert "has 16 actions per frame, --chunk is 4; give --chunk 16" in capsys.readouterr().err
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping(), "--chunk", "0")) == 2
    assert "--chunk is 0, expected 2 or more" in capsys.readouterr().err


def test_a_recorded_data_set_is_not_added_to(words, capsys, tmp_path):
    with writer(tmp_path / "set") as out:
        out.add(ours(0))
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping())) == 2
    assert "holds a data set that was not imported" in capsys.readouterr().err


def test_a_damaged_episode_stops_the_import_and_can_be_skipped(words, copy, capsys, tmp_path):
    folder = copy("lerobot_v2_1_image")
    path = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    values = np.array(table["action"].to_pylist(), np.float32)
    values[2, 4] = np.inf
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 7)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    assert cli.main(words(folder, mapping())) == 2
    told = capsys.readouterr().err
    assert "frame 2 of episode 1 of" in told and "--skip" in told
    assert cli.main(words(folder, mapping(), "--skip", "1")) == 0
    assert "1 are there, 1 to import" in capsys.readouterr().out
    assert [row.meta["source_episode"] for row in Dataset.open(tmp_path / "set").episodes] == [0, 2]


@pytest.mark.parametrize("layout", ["lerobot_v2_1_video", "lerobot_v3_0_video", "rlds"])
def test_a_source_that_is_cut_off_is_refused_before_anything_is_written(words, copy, capsys, tmp_path, layout):
    folder = copy(layout)
    path = max(path for path in folder.rglob("*") if path.suffix == ".mp4" or "tfrecord" in path.name)
    path.write_bytes(path.read_bytes()[:-7])
    assert cli.main(words(folder, mapping(rlds=layout == "rlds"))) == 2
    assert path.name in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_statistics_are_those_of_what_is_trained_on_and_hashed(words, tmp_path):
    assert cli.main(words(DATA / "lerobot_v3_0_image", mapping())) == 0
    (found,) = statistics.load(tmp_path / "set").values()
    chunks = Dataset.open(tmp_path / "set").columns("chunk")
    assert found == statistics.compute(chunks) and found.samples == len(chunks) * 8
    body = json.loads((tmp_path / "set" / statistics.FILE).read_text())
    assert body["statistics_sha256"] == {"made_up_arm": found.digest()}
    flat = chunks.reshape(-1, 7).astype(float)
    assert np.allclose(body["mean"], flat.mean(0)) and np.allclose(body["std"], flat.std(0))
    assert np.allclose(denormalise(normalise(flat, found), found), flat)
    body["statistics"]["made_up_arm"]["q99"][0] *= 2
    (tmp_path / "set" / statistics.FILE).write_text(json.dumps(body))
    with pytest.raises(DataError, match="does not match its hash"):
        statistics.load(tmp_path / "set")


def test_an_import_trains_as_it_is_and_its_contract_says_what_it_was(words, tmp_path):
    torch.set_num_threads(1)
    body = mapping(fps={"source": 10, "target": 5}, cameras={"front": {"from": "observation.images.top"}})
    assert cli.main(words(DATA / "lerobot_v2_1_image", body)) == 0
    told = ["--data", tmp_path / "set", "--out", tmp_path / "policy", "--steps", 2, "--batch", 4, "--threads", 1]
    assert cli.main(["train", *map(str, told)]) == 0
    found = contract.load(tmp_path / "policy")
    assert found.robot == "made_up_arm" and found.action.period_s == 0.2
    assert [(each.name, each.source_height, each.source_width) for each in found.cameras] == [("front", 48, 64)]
    assert found.active_statistics == statistics.load(tmp_path / "set")["made_up_arm"]


def test_places_that_the_data_do_not_tell_teach_nothing():
    from actdistill_ros.policy.losses import compute
    from actdistill_ros.policy.model import Prediction

    shapes = {"motion": (2, 8, 6), "gripper": (2, 8), "scene": (2, 14), "focus": (2, 6)}
    made = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    places = torch.full((2, 20), torch.nan)
    chunk, opening = torch.rand(2, 8, 7), torch.ones(2)
    found = compute(Prediction(**made), chunk, places, opening, 4)
    assert torch.isfinite(found.total) and set(found.parts) == {"motion", "gripper"}
    found.total.backward()
    assert made["scene"].grad is None and made["focus"].grad is None
    places[0] = 0.3  # one of the two samples tells them
    found = compute(Prediction(**made), chunk, places, opening, 4)
    found.total.backward()
    assert made["scene"].grad[0].abs().min() > 0 and not made["scene"].grad[1].any()
    assert found.parts["scene_mm"] == pytest.approx(float((made["scene"][0].detach() - 3).abs().mean() * 100), rel=1e-5)


def test_data_sets_that_differ_in_rate_are_not_trained_on_together(words, tmp_path, capsys):
    assert cli.main(words(DATA / "lerobot_v2_1_image", mapping())) == 0
    shutil.move(tmp_path / "set", tmp_path / "fast")
    assert cli.main(words(DATA / "lerobot_v2_1_image", mapping(fps={"source": 10, "target": 5}))) == 0
    told = ["--data", tmp_path / "fast", tmp_path / "set", "--out", tmp_path / "policy", "--steps", 1]
    assert cli.main(["train", *map(str, told)]) == 2
    assert "the data sets differ in fps" in capsys.readouterr().err


def test_what_is_read_is_never_written_into(words, copy, capsys):
    source = copy("rlds")
    before = sorted(source.rglob("*"))
    for out in (source, source / "new"):
        told = words(source, mapping(rlds=True))
        told[told.index("--out") + 1] = str(out)
        assert cli.main(told) == 2
        assert "lies in the data set that is read" in capsys.readouterr().err
    assert sorted(source.rglob("*")) == before


def test_episodes_to_skip_that_are_not_there_or_there_already_or_all_are_refused(words, capsys, tmp_path):
    told = words(DATA / "rlds", mapping(rlds=True))
    for skipped, text in ((["3"], "has episodes 0 … 2"), (["0", "1", "2"], "leaves out all 3 episodes")):
        assert cli.main([*told, "--skip", *skipped]) == 2
        assert text in capsys.readouterr().err
    assert not list((tmp_path / "set").glob("data"))
    assert cli.main(told) == 0
    assert cli.main([*told, "--skip", "1"]) == 2
    assert "--skip 1: that episode is in" in capsys.readouterr().err


def test_a_mapping_or_a_record_that_is_no_text_is_refused(words, capsys, tmp_path):
    told = words(DATA / "rlds", mapping(rlds=True))
    (tmp_path / "mapping.json").write_bytes(b"\x8e\x00")
    assert cli.main(told) == 2
    assert "mapping.json is neither YAML nor JSON" in capsys.readouterr().err
    assert cli.main(words(DATA / "rlds", mapping(rlds=True))) == 0
    (tmp_path / "set" / "meta" / "import.json").write_text("{")
    assert cli.main(told) == 2
    assert "import.json cannot be read" in capsys.readouterr().err


def test_a_damaged_record_is_named_as_the_episode_to_skip(words, copy, capsys, tmp_path):
    source = copy("rlds")
    second = sorted(source.glob("*.tfrecord-*"))[1]
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 0xFF
    second.write_bytes(data)
    told = words(source, mapping(rlds=True))
    assert cli.main(told) == 2
    error = capsys.readouterr().err
    number = error.partition("episode ")[2].partition(":")[0]
    assert (
        f"does not match its checksum; the file is damaged, copy it again. Or leave it out with --skip {number}"
        in error
    )
    assert cli.main([*told, "--skip", number]) == 0
    assert [row.meta["source_episode"] for row in Dataset.open(tmp_path / "set").episodes] == [
        index for index in range(3) if index != int(number)
    ]


def test_the_first_import_of_the_documentation_works_as_written(words, capsys, tmp_path):
    text = (DATA.parents[1] / "docs" / "datasets.md").read_text().partition("## A first import")[2]
    (block,) = re.findall(r"((?:^    .*\n)+)", text.partition("Then,")[0], re.MULTILINE)
    told = words(DATA / "rlds", {})
    (tmp_path / "mapping.json").write_text(textwrap.dedent(block))
    assert cli.main(told) == 0 and cli.main(["dataset", "verify", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "with correlation 1.00" in said and "no faults" in said
