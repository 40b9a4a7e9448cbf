"""The mapping file and what it makes of numbers: units, frames and conventions change once, or nothing is imported."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from foreign_parts import episode, mapping

from actdistill_ros.contract.action_spaces.known import CONVENTIONS
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.rotation import from_rotation_vector, to_quaternion_xyzw
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.pose import integrate
from actdistill_ros.data.conversion import ROTATION_READERS, Converter, chunks
from actdistill_ros.data.episode import DataError, Episode
from actdistill_ros.data.lerobot_source import LeRobotSource
from actdistill_ros.data.mapping import ROTATIONS, check_fit, load
from actdistill_ros.data.writer import Writer

forward = X5.chain.forward

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "test/data/lerobot_v2_1_image"
SEVEN = ("x", "y", "z", "a", "b", "c", "g")


@pytest.fixture
def converter(tmp_path):
    def make(body: dict, folder: Path = SAMPLE) -> Converter:
        path = tmp_path / "mapping.json"
        path.write_text(json.dumps(body))
        source, found = LeRobotSource.open(folder), load(path)
        check_fit(found, source)
        return Converter(found, source)

    return make


@pytest.fixture
def recorded(tmp_path):
    """A data set of one episode with these states (T, 7) and actions (T, D), and its mapping."""

    def make(
        state: np.ndarray, action: np.ndarray, fps: int = 10, sentence: str = "go", **changes
    ) -> tuple[dict, Path]:
        names = SEVEN[: action.shape[1]] if action.shape[1] <= 7 else tuple(f"n{i}" for i in range(action.shape[1]))
        images = {
            "top": np.arange(len(state), dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 3), 20, np.uint8)
        }
        with Writer.open(tmp_path / "set", {"top": (16, 16)}, fps, "arm", state_names=SEVEN, action_names=names) as out:
            out.add(Episode(images, state, action, sentence, seed=0))
        body = {
            "robot": "arm",
            "fps": fps,
            "cameras": {"front": {"from": "observation.images.top"}},
            "instruction": "task",
            "state": {
                "position": {"from": "observation.state", "columns": ["x", "y", "z"]},
                "rotation": {"from": "observation.state", "columns": ["a", "b", "c"], "as": "rotvec"},
                "gripper": {"from": "observation.state", "columns": ["g"], "closed": 0, "open": 1},
            },
            "action": {"convention": "product", "from": "action"},
        }
        return body | changes, tmp_path / "set"

    return make


def convert(made: Converter, number: int = 0) -> Episode:
    (found,) = made.source.read(made.mapping.keys(), lambda index: index == number)
    return made.convert(found)


def walk(action: np.ndarray, start: ArmPose) -> np.ndarray:
    """(T, 7) states (position, rotation vector, opening) of an arm that carries out product actions (T, 7)."""
    from actdistill_ros.contract.rotation import rotation_vector

    poses, opening = [start], [1.0]
    for each in action[:-1]:
        poses.append(integrate(poses[-1], each[:3], each[3:6]))
        opening.append(each[6])
    return np.array([[*p.position_m, *rotation_vector(p.rotation), o] for p, o in zip(poses, opening, strict=True)])


def moves(length: int = 6) -> np.ndarray:
    rng = np.random.default_rng(4)
    action = np.column_stack([rng.normal(0, 0.01, (length, 3)), rng.normal(0, 0.1, (length, 3)), np.ones(length)])
    action[length // 2 :, 6] = 0.0
    return action


def state_at(*columns: str) -> dict:
    """The sample's state with its position read from other columns."""
    return {**mapping()["state"], "position": {"from": "observation.state", "columns": list(columns)}}


START = ArmPose(np.array([0.3, 0.1, 0.2]), from_rotation_vector(np.array([0.1, 1.4, -0.2])))


def test_an_episode_has_the_products_state_actions_and_chunks(converter):
    found, sent = convert(converter(mapping()), 2), episode(2)
    assert np.allclose(found.state[:, :3], sent.state[:, :3])
    yaw = sent.state[:, 5]
    assert np.allclose(
        found.state[:, 3:9],
        np.column_stack([np.cos(yaw), np.sin(yaw), 0 * yaw, -np.sin(yaw), np.cos(yaw), 0 * yaw]),
        atol=1e-6,
    )
    assert np.allclose(found.state[:, 9], sent.state[:, 6] / 0.08)
    assert np.allclose(found.action, sent.action, atol=1e-6)  # about z alone: roll-pitch-yaw is a rotation vector
    assert found.instruction == sent.sentence and found.meta["source_episode"] == 2
    assert np.array_equal(found.extras["chunk"][:, 0], found.action)
    assert found.extras["chunk"].shape == (7, 8, 7)


def test_a_chunk_goes_on_past_the_end_by_holding():
    action = moves(5)
    found = chunks(action, 4)
    assert np.array_equal(found[1], action[1:5])
    assert np.array_equal(
        found[3], [action[3], action[4], [0, 0, 0, 0, 0, 0, action[4, 6]], [0, 0, 0, 0, 0, 0, action[4, 6]]]
    )


def test_every_way_to_write_a_rotation_gives_the_same_rotation():
    rotation = from_rotation_vector(np.array([0.4, -1.1, 0.7]))
    x, y, z, w = to_quaternion_xyzw(rotation)
    pitch = -np.arcsin(rotation[2, 0])
    written = {
        "rpy": [np.arctan2(rotation[2, 1], rotation[2, 2]), pitch, np.arctan2(rotation[1, 0], rotation[0, 0])],
        "rotvec": [0.4, -1.1, 0.7],
        "quat_xyzw": [x, y, z, w],
        "quat_wxyz": [w, x, y, z],
        "columns": [*rotation[:, 0], *rotation[:, 1]],
        "matrix": rotation.reshape(-1),
    }
    assert written.keys() == ROTATION_READERS.keys()
    for name, numbers in written.items():
        assert np.allclose(ROTATION_READERS[name](np.array(numbers)), rotation), name


def test_what_is_no_rotation_is_refused(converter):
    for name in ("quat_xyzw", "quat_wxyz"):
        with pytest.raises(ValueError, match="norm 1.4"):
            ROTATION_READERS[name](np.array([1.0, 0, 0, 1.0]))
    for name, count in (("columns", 6), ("matrix", 9)):
        with pytest.raises(ValueError, match="is no rotation matrix"):
            ROTATION_READERS[name](np.full(count, 0.5))


def test_deltas_in_the_tools_frame_poses_and_achieved_states_are_the_same_motion(converter, recorded):
    action = moves()
    state = walk(action, START)
    told = np.vstack([walk(np.vstack([action, action[-1:]]), START)[1:]])  # the pose that each action leads to
    body, folder = recorded(state, told)
    pose = {
        "position": {"from": "action", "columns": ["x", "y", "z"]},
        "rotation": {"from": "action", "columns": ["a", "b", "c"], "as": "rotvec"},
        "gripper": {"from": "action", "columns": ["g"], "closed": 0, "open": 1},
    }
    found = convert(converter(body | {"action": {"kind": "poses", **pose}}, folder))
    assert np.allclose(found.action, action, atol=1e-5)
    achieved = convert(converter(body | {"action": {"kind": "state"}}, folder))
    assert np.allclose(achieved.action[:-1], action[:-1], atol=1e-5)
    assert np.allclose(achieved.action[-1, :6], 0, atol=1e-6)


def test_deltas_along_the_tools_axes_are_turned_into_the_bases(converter, recorded):
    action = moves()
    state, tool = walk(action, START), action.copy()
    pose = START
    for row in tool:
        after = integrate(pose, row[:3], row[3:6])
        row[:3], row[3:6] = pose.rotation.T @ row[:3], pose.rotation.T @ row[3:6]
        pose = after
    body, folder = recorded(state, tool)
    columns = {
        "position": {"from": "action", "columns": ["x", "y", "z"]},
        "rotation": {"from": "action", "columns": ["a", "b", "c"], "as": "rotvec"},
        "gripper": {"from": "action", "columns": ["g"], "closed": 0, "open": 1},
    }
    found = convert(converter(body | {"action": {"kind": "deltas", "frame": "tool", **columns}}, folder))
    assert np.allclose(found.action, action, atol=1e-5)


def test_a_known_convention_is_named_instead_of_spelt_out(converter, recorded):
    action = moves()
    libero = action / np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0])
    libero[:, 6] = 1 - 2 * action[:, 6]  # −1 opens, 1 closes
    body, folder = recorded(walk(action, START), libero)
    found = convert(converter(body | {"action": {"convention": "libero", "from": "action"}}, folder))
    assert np.allclose(found.action, action, atol=1e-5)


def test_the_parts_of_a_known_convention_may_be_columns_of_their_own(converter):
    parts = {name: value for name, value in mapping()["action"].items() if name != "kind"}
    for part in parts.values():
        for word in ("as", "closed", "open"):
            part.pop(word, None)
    found = convert(converter(mapping(action={"convention": "bridge_orig", **parts})))
    assert np.allclose(found.action, episode(0).action, atol=1e-6)


def test_half_the_rate_composes_two_actions_into_one(converter, recorded):
    action = moves(7)
    state = walk(action, START)
    body, folder = recorded(state, action)
    found = convert(converter(body | {"fps": {"source": 10, "target": 5}}, folder))
    assert len(found) == 4 and np.allclose(found.state[:, :3], state[::2, :3], atol=1e-6)
    pose = START
    for each, index in zip(found.action, range(0, 7, 2), strict=True):
        pose = integrate(pose, each[:3].astype(float), each[3:6].astype(float))
        expected = integrate(
            ArmPose(state[index][:3], from_rotation_vector(state[index][3:6])), action[index][:3], action[index][3:6]
        )
        if index + 1 < 7:
            expected = integrate(expected, action[index + 1][:3], action[index + 1][3:6])
        assert np.allclose(pose.position_m, expected.position_m, atol=1e-6)
        assert np.allclose(pose.rotation, expected.rotation, atol=1e-5)
        assert each[6] == action[min(index + 1, 6), 6]
    assert [int(image.mean() / 20 + 0.5) for image in found.images["front"]] == [0, 2, 4, 6]


def test_the_joints_of_an_x5_are_poses_too(converter, recorded):
    action = moves()
    joints = np.linspace([0.1, 0.9, 0.8, -0.5, 0.1, 0.2], [0.3, 1.2, 0.9, -0.6, 0.2, 0.1], 7)
    poses = [forward(angles) for angles in joints]
    state = np.column_stack([joints[:-1], np.ones(6)])
    told = np.column_stack([joints[1:], action[:, 6]])
    pick = {"joints": {"from": "observation.state", "columns": list(SEVEN[:6])}}
    body, folder = recorded(state, told)
    body["state"] = pick | {"gripper": body["state"]["gripper"]}
    gripper = {"from": "action", "columns": ["g"], "closed": 0, "open": 1}
    body["action"] = {"kind": "poses", "joints": {**pick["joints"], "from": "action"}, "gripper": gripper}
    found = convert(converter(body, folder))
    assert np.allclose(found.state[:, :3], [pose.position_m for pose in poses[:-1]], atol=1e-6)
    for each, before, after in zip(found.action, poses[:-1], poses[1:], strict=True):
        reached = integrate(before, each[:3].astype(float), each[3:6].astype(float))
        assert np.allclose(reached.position_m, after.position_m, atol=1e-6)
        assert np.allclose(reached.rotation, after.rotation, atol=1e-5)
    body["state"]["joints"]["scale"] = 57.3
    with pytest.raises(DataError, match=r"frame 0 of episode 0 .* has joint 1 at 5\.73 rad, an ARX X5 reaches -3\.14"):
        convert(converter(body, folder))


def test_the_last_step_is_dropped_where_its_action_means_nothing(converter):
    whole, shorter = convert(converter(mapping())), convert(converter(mapping(last_step="drop")))
    assert len(shorter) == len(whole) - 1 and np.array_equal(shorter.action, whole.action[:-1])
    assert np.array_equal(shorter.images["wrist"], whole.images["wrist"][:-1])


def test_cameras_are_turned_counter_clockwise_and_resized(converter):
    cameras = {"front": {"from": "observation.images.top", "rotate_deg": 180}}
    found = convert(converter(mapping(cameras=cameras))).images["front"]
    assert np.array_equal(found, episode(0).images["top"][:, ::-1, ::-1])
    made = converter(mapping(cameras={"front": {"from": "observation.images.top", "rotate_deg": 90}}))
    assert made.cameras == {"front": (64, 48)}
    assert np.array_equal(convert(made).images["front"][0], np.rot90(episode(0).images["top"][0]))
    small = convert(converter(mapping(cameras={"front": {"from": "observation.images.hand", "size": [16, 16]}})))
    assert small.images["front"].shape == (6, 16, 16, 3)
    assert abs(small.images["front"].mean() - episode(0).images["hand"].mean()) < 1


def test_a_value_that_is_not_finite_is_named_with_its_frame(converter):
    made = converter(mapping())
    (found,) = made.source.read(made.mapping.keys(), lambda index: index == 1)
    found.values["action"][3, 2] = np.nan
    with pytest.raises(
        DataError, match=r"frame 3 of episode 1 .* has nan in action, expected a finite number; .*--skip"
    ):
        made.convert(found)


def test_normalised_actions_are_refused_instead_of_taken_for_metres(converter, recorded):
    action = moves()
    body, folder = recorded(walk(action, START), action * [40, 40, 40, 1, 1, 1, 1])
    with pytest.raises(DataError, match=r"frame \d of episode 0 .* moves by \d\.\d\d m, more than 0\.3 m in one step"):
        convert(converter(body, folder))


def test_a_gripper_of_another_polarity_or_unit_is_refused(converter, recorded):
    action = moves()
    wrong = action * [1, 1, 1, 1, 1, 1, 2] - [0, 0, 0, 0, 0, 0, 1]  # −1 … 1
    body, folder = recorded(walk(action, START), wrong)
    with pytest.raises(
        DataError, match="frame 3 in action of episode 0 .* has the gripper at -1, expected 0 closed to 1"
    ):
        convert(converter(body, folder))
    state = {**mapping()["state"], "gripper": {"from": "observation.state", "columns": [6], "closed": 0, "open": 0.02}}
    with pytest.raises(DataError, match=r"has the gripper at 0\.08, expected 0 closed to 0\.02 open"):
        convert(converter(mapping(state=state)))


def test_actions_of_another_robot_are_refused_by_their_number(converter, recorded):
    with pytest.raises(DataError, match=r"action takes 7 numbers, the mapping gives 8 of action; choose them"):
        converter(*recorded(walk(moves(), START), np.zeros((6, 8))))


def test_an_empty_or_second_sentence_is_refused(converter):
    made = converter(mapping())
    for words, text in ((["go", " "], "has an empty task"), (["go", "stop"], "has 2 sentences")):
        (found,) = made.source.read(made.mapping.keys(), lambda index: index == 1)
        found.values["task"][:] = words[0]
        found.values["task"][-1] = words[1]
        with pytest.raises(DataError, match=text):
            made.convert(found)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"cameras": {"front": {"from": "observation.images.left"}}},
            r"no 'observation\.images\.left' .* images: observation\.images\.top \[48, 64, 3\], observation\.images\.h",
        ),
        ({"cameras": {"front": {"from": "action"}}}, "'action' is a column of numbers .* expected images"),
        ({"cameras": {}}, "cameras is empty"),
        ({"cameras": {"front": {"from": "observation.images.top", "size": [33, 32]}}}, "expected .* in even numbers"),
        ({"cameras": {"front": {"from": "observation.images.top", "rotate_deg": 45}}}, "expected 0, 90, 180 or 270"),
        ({"instruction": "sentence"}, "there is no 'sentence' .* texts: task"),
        ({"fps": 30}, r"the mapping says fps\.source 30, .* was recorded at 10"),
        ({"fps": {"source": 10, "target": 4}}, "go into the source a whole number of times"),
        ({"fps": "fast"}, "fps is 'fast', expected dict or int or float"),
        (
            {"action": {"convention": "libero_rdls", "from": "action"}},
            "no action space 'libero_rdls'.*Did you mean libero_rlds",
        ),
        ({"action": {"kind": "joints"}}, "kind is 'joints', expected one of deltas, poses, state"),
        ({"last_step": "maybe"}, "expected one of keep, drop"),
        ({"colour": "red"}, "has an unknown entry 'colour'"),
        ({"state": state_at("x", "y", "w")}, "has no element 'w'; it has 7: x, y, z, roll"),
        ({"state": state_at("x", "y")}, r"state\.position takes 3 numbers, the mapping gives 2"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_is_refused_with_what_there_is(converter, changes, text):
    with pytest.raises(DataError, match=text):
        _ = converter(mapping(**changes)).cameras


def test_an_entry_that_is_missing_is_named_by_its_path(converter):
    body = mapping()
    del body["state"]["gripper"]["open"]
    with pytest.raises(DataError, match=r"mapping\.json: mapping\.state\.gripper\.open is missing"):
        converter(body)


def test_a_mapping_file_that_is_no_mapping_says_so(tmp_path):
    path = tmp_path / "m.yaml"
    with pytest.raises(DataError, match=r"m\.yaml is missing"):
        load(path)
    path.write_text("a: [1")
    with pytest.raises(DataError, match="is neither YAML nor JSON"):
        load(path)
    path.write_text("just words")
    with pytest.raises(DataError, match="expected a table of entries"):
        load(path)


def test_every_mapping_of_the_documentation_is_one(tmp_path):
    text = (ROOT / "docs/datasets.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    examples = [textwrap.dedent(block) for block in blocks if block.startswith("    robot:")]
    assert len(examples) == 5
    for example in examples:
        (tmp_path / "m.yaml").write_text(example)
        assert load(tmp_path / "m.yaml").cameras
    for name in CONVENTIONS:
        assert f"`{name}`" in text
    for name in ROTATIONS:
        assert f"`{name}`" in text
