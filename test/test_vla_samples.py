"""Training samples for OpenVLA and CogACT teachers: what a student is shown and told is what the policy sees and
does."""

import json
import shutil
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_parts import episode as foreign
from foreign_parts import mapping
from vla_parts import TINY, linked_copy, maker, tool

from actdistill_ros import cli
from actdistill_ros.contract.chunk import GRIPPER
from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.contract.observation import Observation
from actdistill_ros.contract.seeds import EVALUATION_SEED
from actdistill_ros.data.episode import DataError, Episode
from actdistill_ros.data.reader import Dataset
from actdistill_ros.data.writer import Writer
from actdistill_ros.distill.vla import fit, samples
from actdistill_ros.distill.vla.labels import Labels
from actdistill_ros.distill.vla.samples import VlaSamples
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, deployment
from actdistill_ros.policy.vla.cogact import CogACT
from actdistill_ros.policy.vla.deployment import Deployment
from actdistill_ros.policy.vla.images import VisionInput
from actdistill_ros.policy.vla.openvla import OpenVLA, Prismatic

tool("make_vla_checkpoint")
tool("reference_openvla")
tool("reference_cogact")
cogact_maker = tool("reference_cogact_vla")
DATA = Path(__file__).parent / "data"
LAYOUTS = ("lerobot_v2_1_video", "lerobot_v2_1_image", "lerobot_v3_0_video", "lerobot_v3_0_image", "rlds")
TOLD = Deployment("front", (192, 192), 0.1, "bridge_orig", dtype="float32")
EPISODES, LENGTH, SIDE = 40, 6, 192
BRIDGE = [np.array(maker.statistics()["bridge_orig"]["action"][name]) for name in ("q01", "q99")]
WIDE = Statistics((-0.3,) * 6 + (0.0,), (0.3,) * 6 + (1.0,), (True,) * 6 + (False,), 1)


@pytest.fixture(scope="module")
def openvla_folder(tmp_path_factory):
    torch.set_num_threads(1)
    return deployed(maker.write_folder(tmp_path_factory.mktemp("vla") / "openvla-tiny", TINY))


@pytest.fixture(scope="module")
def cogact_folder(tmp_path_factory):
    torch.set_num_threads(1)
    return deployed(cogact_maker.write_checkpoint(tmp_path_factory.mktemp("vla") / "cogact-tiny"))


def deployed(folder: Path) -> Path:
    (folder / deployment.FILE).write_text(json.dumps(asdict(TOLD)))
    return folder


@pytest.fixture(scope="module")
def openvla(openvla_folder):
    return checkpoint.load(openvla_folder, "bridge_orig", "float32")


@pytest.fixture(scope="module")
def cogact(cogact_folder):
    return cogact_checkpoint.load(cogact_folder, "bridge_orig", "float32")


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Short episodes cut out of what `actdistill collect` records: its frames, states and labels."""
    place = tmp_path_factory.mktemp("data")
    words = ["collect", "--out", place / "whole", "--episodes", 2, "--workers", 1, "--seed", 40]
    assert cli.main([str(word) for word in words]) == 0
    recorded = [Dataset.open(place / "whole").episode(index) for index in range(2)]
    with Writer.open(place / "set", {"front": (SIDE, SIDE)}, 10, "arx_x5", {"chunk": (8, 7)}) as out:
        for number in range(EPISODES):
            one = recorded[number % 2]
            first = 3 * number % (len(one) - LENGTH)
            part = slice(first, first + LENGTH)
            images, extras = {"front": one.images["front"][part]}, {"chunk": one.extras["chunk"][part]}
            out.add(Episode(images, one.state[part], one.action[part], one.instruction, number, extras, one.meta))
    return place / "set"


@pytest.fixture(scope="module")
def of_openvla(collected, openvla):
    return VlaSamples.open([collected], openvla, TOLD)


@pytest.fixture(scope="module")
def small(collected, openvla):
    """Of pictures small enough for whole epochs."""
    return VlaSamples.open([collected], replace(openvla, vision=VisionInput(16)), TOLD)


@pytest.fixture(scope="module")
def of_cogact(collected, cogact):
    return VlaSamples.open([collected], cogact, TOLD)


def made(folder: Path, episodes=EPISODES, width=8, **changes) -> Path:
    """A data set of small pictures and quiet actions; `changes` replace what `Writer.open` or each episode is given."""
    told = {"fps": 10, "robot": "arx_x5", "sentence": "lift", "first_seed": 0, "size": (16, 16), "meta": {}} | changes
    rng = np.random.default_rng(0)
    extras = {"chunk": (width, 7)} if width else {}
    names = {name: told[name] for name in ("state_names", "action_names") if name in told}
    with Writer.open(folder, {"front": told["size"]}, told["fps"], told["robot"], extras, **names) as out:
        for number in range(episodes):
            chunk = rng.uniform(-0.01, 0.01, (3, max(1, width), 7)).astype(np.float32)
            chunk[..., GRIPPER] = number % 2
            state = np.tile(np.float32([0.3, 0, 0.2, 1, 0, 0, 0, 1, 0, 1]), (3, 1))
            images = {"front": rng.integers(0, 255, (3, *told["size"], 3), dtype=np.uint8)}
            kept = {"chunk": chunk} if width else {}
            seed = told["first_seed"] + number
            out.add(Episode(images, state, chunk[:, 0], told["sentence"], seed, kept, told["meta"]))
    return folder


SMALL = replace(TOLD, frame=(16, 16))


def observation(folder, frame: int) -> Observation:
    """What the node would have put together when the frame was recorded."""
    data = Dataset.open(folder)
    start = Labels([data], 1).start(frame)
    images = {"front": data.frames("front", cache=False)[frame]}
    sentence = data.instructions()[int(data.episode_index(frame))]
    return Observation(images, start.tcp_in_base, start.opening, sentence, 1.0)


@pytest.mark.parametrize("teacher", ["openvla", "cogact"])
def test_a_frame_is_seen_and_asked_as_the_policy_sees_it_and_is_asked(teacher, request, collected, monkeypatch):
    found = request.getfixturevalue(f"of_{teacher}")
    policy, given = loading.load(request.getfixturevalue(f"{teacher}_folder")), []
    embed = Prismatic.embed_inputs
    monkeypatch.setattr(Prismatic, "embed_inputs", lambda self, *inputs: given.append(inputs) or embed(self, *inputs))
    for frame in (0, 101, int(found.validation[2])):
        policy.step(observation(collected, frame))
        pixels, ids = given.pop()
        batch = found.at(np.array([frame, 0, 40]))
        assert torch.equal(batch.pixels[:1], pixels)
        assert torch.equal(batch.ids[:1, : batch.length[0]], ids)


def test_prompts_are_padded_at_their_end_and_say_how_long_they_are(of_openvla):
    batch = of_openvla.at(of_openvla.training[:12])
    assert len(set(batch.length.tolist())) > 1
    for row, length in zip(batch.ids, batch.length, strict=True):
        assert row[0] == 1 and (row[:length] != 0).all() and not row[length:].any()


def test_openvla_that_says_a_samples_words_does_what_was_recorded(openvla_folder, collected, of_openvla, monkeypatch):
    policy, recorded = loading.load(openvla_folder), Dataset.open(collected).columns("chunk")
    low, high = BRIDGE
    for frame in (0, 31, 77, 150):
        batch = of_openvla.at(np.array([frame]))
        assert batch.words.shape == (1, 7) and batch.actions.shape == (1, 1, 7) and batch.actions.abs().max() <= 1
        monkeypatch.setattr(OpenVLA, "words", lambda *_, said=batch.words: said)
        done = policy.step(observation(collected, frame)).chunk.actions[0]
        off = np.abs(done - np.clip(recorded[frame, 0], low, high))
        assert (off[:3] <= (high - low)[:3] / 255).all() and off[3:6].max() <= (high - low)[3:6].max() / 255
        assert off[GRIPPER] <= 1 / 255


def test_cogact_that_samples_a_samples_actions_does_what_was_recorded(cogact_folder, collected, of_cogact, monkeypatch):
    policy, recorded = loading.load(cogact_folder), Dataset.open(collected).columns("chunk")
    for frame in (0, 31, 77, 150):
        batch = of_cogact.at(np.array([frame]))
        assert batch.words.shape == (1, 0) and batch.actions.shape == (1, 16, 7)
        monkeypatch.setattr(CogACT, "denoise", lambda *_, answer=batch.actions: answer)
        done = policy.step(observation(collected, frame)).chunk.actions
        assert np.abs(done[:8] - np.clip(recorded[frame], *BRIDGE)).max() < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_actions_of_an_imported_data_set_come_back_from_the_words(layout, openvla, tmp_path):
    folders = [imported(layout, tmp_path / str(copy)) for copy in range(14)]
    told = replace(TOLD, frame=(48, 64))
    found = VlaSamples.open(folders, openvla, told)
    assert len(found.training) + len(found.validation) == 14 * 18 and len(found.validation)
    batch = found.at(np.arange(18))
    sent = np.concatenate([foreign(number).action for number in range(3)])
    heard, (low, high) = openvla.bins.decode(batch.words.numpy()), BRIDGE
    back = (heard + 1) / 2 * (high - low) + low
    assert (np.abs(back - sent)[:, :6] <= (high - low)[:6] / 255).all()
    assert ((heard[:, 6] > 0.5) == (sent[:, 6] > 0.5)).all()


def imported(layout: str, place: Path) -> Path:
    """Imported once per layout; a copy for every further place."""
    first = place.parent / "0"
    if place != first:
        return Path(shutil.copytree(first, place))
    place.parent.mkdir(exist_ok=True)
    told = place.parent / "mapping.json"
    told.write_text(json.dumps(mapping(rlds=layout == "rlds")))
    kind = "rlds" if layout == "rlds" else "lerobot"
    words = ["--from", DATA / layout, "--format", kind, "--mapping", told, "--out", place]
    assert cli.main(["dataset", "import", *map(str, words)]) == 0
    return place


def test_a_batch_depends_on_seed_and_step_alone(collected, openvla, of_openvla):
    again = VlaSamples.open([collected], openvla, TOLD)
    for step in (0, 3, 40):
        assert same(of_openvla.train(5, step, 8), again.train(5, step, 8))
    assert not same(of_openvla.train(5, 0, 8), of_openvla.train(5, 1, 8))
    assert not same(of_openvla.train(5, 0, 8), of_openvla.train(6, 0, 8))


def same(one, other) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_shares_of_several_processes_are_together_the_batch(of_openvla, of_cogact):
    for found in (of_openvla, of_cogact):
        whole = found.train(5, 2, 9)
        parts = [found.train(5, 2, 9, slice(3 * i, 3 * i + 3)) for i in range(3)]
        for name in vars(whole):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_an_epoch_shows_every_training_frame_once_and_none_that_is_held_out(small):
    pool = small.training
    assert len(pool) == 39 * LENGTH and len(small.validation) == LENGTH
    assert not set(pool) & set(small.validation)
    shown = [small.train(1, step, 13).actions for step in range(len(pool) // 13)]
    told = small.at(pool).actions
    assert torch.equal(torch.cat(shown).reshape(-1, 7).sort(0).values, told.reshape(-1, 7).sort(0).values)
    later = [small.train(1, step, 13).actions for step in range(len(pool) // 13, len(pool) // 13 + 3)]
    assert not torch.equal(torch.cat(shown[:3]), torch.cat(later)), "the next epoch has another order"


def test_training_varies_colours_and_validation_does_not(small):
    count = len(small.training)
    first, second = (small.train(1, step, count).pixels.sum() for step in (0, 1))  # the same frames in another order
    assert abs(first - second) > 1
    one = small.validation[:1]
    assert torch.equal(small.at(one).pixels, small.at(one).pixels)


def test_frames_stay_in_a_mapped_file(collected, openvla, of_openvla):
    tracemalloc.start()
    found = VlaSamples.open([collected], openvla, TOLD)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    frames = EPISODES * LENGTH * 224 * 224 * 3
    assert peak < frames / 4, "all frames were read"
    assert same(found.at(np.array([5])), of_openvla.at(np.array([5])))
    (file,) = (collected / "cache").glob("front-squeezed224x1-*.npy")
    assert file.stat().st_size == pytest.approx(frames, rel=0.01)


def test_what_a_resumed_run_must_share_is_json_and_tells_one_teaching_from_another(collected, openvla, of_openvla):
    assert json.loads(json.dumps(of_openvla.settings)) == of_openvla.settings
    assert of_openvla.settings != VlaSamples.open([collected], openvla, replace(TOLD, action_space="product")).settings


def test_how_well_the_data_fit_is_said_in_numbers(of_openvla):
    told = str(of_openvla.fit)
    assert "240 recorded actions are beyond q01 … q99" in told and "% of its range" in told and "mm" in told
    assert of_openvla.fit.lost[0] < 0.05 and 0 < min(of_openvla.fit.used[:3])


def test_statistics_that_many_actions_lie_outside_of_are_refused_by_number(tmp_path, openvla):
    narrow = replace(WIDE, q01=(-0.007, *WIDE.q01[1:]), q99=(0.007, *WIDE.q99[1:]))  # of actions up to 0.01
    told = r"(2\d|3\d)\.\d % of 120 recorded actions are beyond q01 … q99 .* in dx_m, .* More than 20 % .* are refused"
    with pytest.raises(DataError, match=told):
        VlaSamples.open([made(tmp_path / "set")], replace(openvla, statistics={"bridge_orig": narrow}), SMALL)


def test_statistics_in_another_unit_than_the_data_are_refused_by_number(tmp_path, openvla):
    units = replace(WIDE, q01=(-0.9,) * 6 + (0.0,), q99=(0.9,) * 6 + (1.0,))  # one unit is 5 cm in truth
    told = replace(SMALL, action_space="product")
    with pytest.raises(DataError, match=r"span 1 %, 1 %, 1 % of its range; .* Less than 4 % of the range are refused"):
        VlaSamples.open([made(tmp_path / "set")], replace(openvla, statistics={"bridge_orig": units}), told)


def test_statistics_of_the_data_themselves_fit(tmp_path, openvla):
    folder = made(tmp_path / "set")
    q01, q99 = np.quantile(Dataset.open(folder).columns("chunk")[:, 0], [0.01, 0.99], axis=0)
    own = Statistics(tuple(q01.tolist()), tuple(q99.tolist()), WIDE.mask, 120)
    found = VlaSamples.open(
        [folder], replace(openvla, statistics={"bridge_orig": own}), replace(SMALL, action_space="product")
    )
    assert max(found.fit.outside) < 2 * fit.EXPECTED and min(found.fit.used) > 0.95


def test_a_teacher_fine_tuned_on_the_data_brings_its_own_statistics(tmp_path, openvla_folder):
    data, teacher = made(tmp_path / "set"), linked_copy(openvla_folder, tmp_path / "tuned")
    q01, q99 = np.quantile(Dataset.open(data).columns("chunk")[:, 0], [0.01, 0.99], axis=0).tolist()
    action = {"q01": q01, "q99": q99, "mask": [True] * 6 + [False]}
    (teacher / "dataset_statistics.json").write_text(json.dumps({"my_arm": {"action": action, "num_transitions": 120}}))
    tuned = checkpoint.load(teacher, "my_arm", "float32")
    with pytest.raises(ContractError, match="which action space the statistics 'my_arm' belong to is not known"):
        VlaSamples.open([data], tuned, SMALL)
    found = VlaSamples.open([data], tuned, replace(SMALL, action_space="product"))
    assert max(found.fit.outside) < 2 * fit.EXPECTED and found.settings["action_space"] == "product"


def test_a_camera_that_the_data_lack_is_named_with_those_they_have(collected, openvla):
    with pytest.raises(DataError, match="has front; deployment.json says that the teacher sees wrist"):
        VlaSamples.open([collected], openvla, replace(TOLD, camera="wrist"))


def test_another_rate_is_refused(collected, openvla):
    with pytest.raises(DataError, match=r"10 frames per second, deployment.json says an action every 0.2 s \(5 per"):
        VlaSamples.open([collected], openvla, replace(TOLD, period_s=0.2))


def test_frames_of_another_shape_are_refused(collected, openvla):
    with pytest.raises(DataError, match="front are 192x192, deployment.json says 640x480"):
        VlaSamples.open([collected], openvla, replace(TOLD, frame=(480, 640)))


def test_another_robots_numbers_are_refused(tmp_path, openvla):
    folder = made(tmp_path / "set", action_names=tuple(f"joint_{i}" for i in range(7)))
    with pytest.raises(DataError, match=r"action is joint_0, .* expected dx_m"):
        VlaSamples.open([folder], openvla, SMALL)


def test_frames_without_labels_are_refused(tmp_path, openvla):
    with pytest.raises(DataError, match="no column chunk"):
        VlaSamples.open([made(tmp_path / "set", width=0)], openvla, SMALL)


def test_too_few_episodes_to_hold_one_out_are_refused(tmp_path, openvla):
    with pytest.raises(DataError, match="39 episodes are too few: every 40th"):
        VlaSamples.open([made(tmp_path / "set", episodes=39)], openvla, SMALL)


def test_evaluation_seeds_are_refused(tmp_path, openvla):
    with pytest.raises(DataError, match="1 of 40 episodes with evaluation seeds"):
        VlaSamples.open([made(tmp_path / "set", first_seed=EVALUATION_SEED - 39)], openvla, SMALL)


def test_episodes_without_a_sentence_are_refused(tmp_path, openvla):
    with pytest.raises(DataError, match="episode 0 has no sentence"):
        VlaSamples.open([made(tmp_path / "set", sentence=" ")], openvla, SMALL)


def test_data_sets_of_two_robots_and_one_given_twice_are_refused(tmp_path, openvla):
    one, other = made(tmp_path / "one"), made(tmp_path / "other", robot="widowx")
    with pytest.raises(DataError, match="differ in robot_type: .* arx_x5, .* widowx"):
        VlaSamples.open([one, other], openvla, SMALL)
    with pytest.raises(DataError, match="is given twice"):
        VlaSamples.open([one, tmp_path / "other" / ".." / "one"], openvla, SMALL)


def test_what_a_policy_did_is_no_label_for_a_longer_chunk(tmp_path, cogact, openvla):
    folder = made(tmp_path / "set", meta={"by": "policy"})
    assert VlaSamples.open([folder], openvla, SMALL)
    with pytest.raises(
        DataError, match="labels each frame with 8 actions, the teacher says 16 at once; in 40 of its 40"
    ):
        VlaSamples.open([folder], cogact, SMALL)


def test_data_are_checked_without_a_teacher(collected, tmp_path):
    assert [one.folder for one in samples.check([collected], TOLD)] == [collected]
    with pytest.raises(DataError, match="is missing. Give the folder that holds meta/"):
        samples.check([tmp_path], TOLD)
    with pytest.raises(DataError, match="no data set is given"):
        samples.check([], TOLD)


def test_a_batch_larger_than_the_data_is_refused(of_openvla):
    with pytest.raises(DataError, match="a batch of 235 is more than the 234 samples"):
        of_openvla.train(0, 0, 235)
