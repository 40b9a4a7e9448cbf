"""Action spaces of other data sets, simulators and drivers, converted to the product's and back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Reference

from actdistill_ros.contract.action_spaces.convention import Convention, Start
from actdistill_ros.contract.action_spaces.known import (
    CONVENTIONS,
    OF_STATISTICS,
    arx5_metres,
    convention,
    of_statistics,
)
from actdistill_ros.contract.action_spaces.parts import Frame, Gripper, Rotation
from actdistill_ros.contract.action_spaces.sticky import StickyGripper
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.pose import integrate

GRIPPER_DOWN = Reference.from_euler("xyz", [0.0, np.pi / 2, 0.0]).as_matrix()
TILTED = Reference.from_rotvec([0.4, 1.1, -0.7]).as_matrix()
OPENING = np.array([1, 1, 0, 0, 1, 0, 1, 1, 0], dtype=float)


def start(rotation=TILTED, opening=1.0):
    return Start(ArmPose(np.array([0.3, -0.05, 0.2]), rotation), opening)


def product_chunk(seed=0):
    rng = np.random.default_rng(seed)
    chunk = np.concatenate([rng.uniform(-0.03, 0.03, (9, 3)), rng.uniform(-0.25, 0.25, (9, 3))], axis=1)
    return np.column_stack([chunk, OPENING])


def executed(actions, begin):
    """The commanded poses when the driver composes these actions one after the other."""
    pose, poses = begin.tcp_in_base, []
    for action in actions:
        pose = integrate(pose, action[:3], action[3:6])
        poses.append(pose)
    return poses


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("rotation", [TILTED, GRIPPER_DOWN], ids=["tilted", "gripper down"])
def test_every_declared_action_space_comes_back_unchanged(name, rotation):
    begin, there = start(rotation), convention(name)
    chunk = product_chunk()
    back = there.to_product(there.from_product(chunk, begin), begin)
    assert np.allclose(back, chunk, atol=1e-7)


@pytest.mark.parametrize("name", [n for n, c in CONVENTIONS.items() if n != "arx5_pose"])
def test_numbers_of_every_delta_space_survive_the_way_through_the_product(name):
    rng, there = np.random.default_rng(1), convention(name)
    numbers = rng.uniform(-0.5, 0.5, (9, 7))
    numbers[:, 6] = there.gripper.sent(OPENING, 1.0)
    assert np.allclose(there.from_product(there.to_product(numbers, start()), start()), numbers, atol=1e-9)


def test_one_unit_of_libero_is_five_centimetres_and_half_a_radian():
    action = np.array([[1.0, -0.5, 0.0, 0.0, 0.0, 1.0, -1.0]])
    assert np.allclose(convention("libero").to_product(action), [[0.05, -0.025, 0, 0, 0, 0.5, 1.0]])


def test_libero_clips_what_is_beyond_one_unit_as_its_controller_does():
    beyond = np.array([[3.0, 0.0, 0.0, -2.0, 0.0, 0.0, 1.0]])
    assert np.allclose(convention("libero").to_product(beyond), [[0.05, 0, 0, -0.5, 0, 0, 0]])
    assert convention("libero").from_product(np.array([[0.2, 0, 0, 0, 0, 0, 0.0]]))[0, 0] == 1.0


def test_an_openvla_action_reaches_libero_as_its_own_evaluation_sends_it():
    said = np.array([[0.3, 0.1, -0.2, 0.05, 0.0, 0.1, g] for g in (0.0, 0.996, 0.4, 0.6)])
    sent = convention("libero").from_product(convention("libero_rlds").to_product(said))
    assert np.allclose(sent[:, :6], said[:, :6])
    assert np.allclose(sent[:, 6], -np.sign(2 * said[:, 6] - 1))


def test_a_bridge_rotation_is_roll_pitch_yaw_about_fixed_axes():
    angles = np.array([0.2, -0.4, 0.7])
    chunk = convention("bridge_orig").to_product(np.concatenate([[0, 0, 0], angles, [1]])[None])
    assert np.allclose(chunk[0, 3:6], Reference.from_euler("xyz", angles).as_rotvec())
    assert not np.allclose(chunk[0, 3:6], angles, atol=0.02)


@pytest.mark.parametrize("model, simulator", [("bridge_orig", "simpler_widowx"), ("fractal20220817_data", None)])
def test_simpler_is_sent_rotation_vectors_of_what_the_model_says_in_angles(model, simulator):
    said = np.array([[0.01, -0.02, 0.03, 0.1, 0.2, -0.3, 0.2], [0, 0, 0, 0, 0, 0, 0.8]])
    simulator = convention(simulator or "simpler_google_robot")
    sent = simulator.from_product(convention(model).to_product(said), start())
    assert np.allclose(sent[:, :3], said[:, :3])
    assert np.allclose(sent[0, 3:6], Reference.from_euler("xyz", said[0, 3:6]).as_rotvec())


def test_simplers_widowx_opens_its_gripper_at_plus_one():
    chunk = np.zeros((2, 7))
    chunk[:, 6] = 0.9, 0.1
    assert convention("simpler_widowx").from_product(chunk)[:, 6].tolist() == [1.0, -1.0]


def test_recorded_fractal_pushes_hold_the_gripper_where_the_last_push_took_it():
    actions = np.zeros((6, 7))
    actions[:, 6] = [0, 1, 0, 0.05, -1, 0]
    chunk = convention("fractal_raw").to_product(actions, start(opening=1.0))
    assert chunk[:, 6].tolist() == [1, 0, 0, 0, 1, 1]


def test_simplers_google_robot_is_pushed_only_when_the_opening_changes():
    chunk = np.zeros((4, 7))
    chunk[:, 6] = [1, 0, 0, 1]
    assert convention("simpler_google_robot").from_product(chunk, start(opening=1.0))[:, 6].tolist() == [0, 1, 0, -1]


def test_an_arx5_gripper_is_metres_between_the_fingers_of_the_model_at_hand():
    chunk = np.zeros((3, 7))
    chunk[:, 6] = 0.0, 0.5, 1.0
    assert np.allclose(convention("arx5_metres").from_product(chunk)[:, 6], [0, 0.044, 0.088])
    assert np.allclose(arx5_metres(0.086).from_product(chunk)[:, 6], [0, 0.043, 0.086])


def test_poses_of_the_sdk_are_reached_when_their_deltas_are_executed_one_after_the_other():
    begin = start(GRIPPER_DOWN)
    poses = np.array([[0.31, -0.04, 0.2, 0.1, 1.4, 0.2, 0.088], [0.33, 0.0, 0.25, -0.3, 1.2, 0.5, 0.0]])
    reached = executed(convention("arx5_pose").to_product(poses, begin), begin)
    for pose, wanted in zip(reached, poses, strict=True):
        assert np.allclose(pose.position_m, wanted[:3])
        assert np.allclose(pose.rotation, Reference.from_euler("xyz", wanted[3:6]).as_matrix())


def test_a_pose_with_the_gripper_straight_down_names_that_very_orientation():
    still = np.array([[0, 0, 0, 0, 0, 0, 1.0]])
    sent = convention("arx5_pose").from_product(still, start(GRIPPER_DOWN))
    assert np.allclose(Reference.from_euler("xyz", sent[0, 3:6]).as_matrix(), GRIPPER_DOWN, atol=1e-9)


def test_a_delta_along_the_tools_axes_moves_the_tool_along_them():
    forward = Convention("mine", Rotation.VECTOR, Gripper(0.0, 1.0), "a user's data set", frame=Frame.TOOL)
    actions = np.array([[0, 0, 0, 0, 0, np.pi / 2, 1], [0.1, 0, 0, 0, 0, 0, 1.0]])
    begin = start(np.eye(3))
    reached = executed(forward.to_product(actions, begin), begin)[-1]
    assert np.allclose(reached.position_m - begin.tcp_in_base.position_m, [0, 0.1, 0])
    assert np.allclose(forward.from_product(forward.to_product(actions, begin), begin), actions)


@pytest.mark.parametrize("shape", [(2, 14), (2, 8), (7,)])
def test_actions_of_another_robot_are_refused(shape):
    with pytest.raises(ContractError, match=r"'libero'.*expected \(K, 7\).*another robot"):
        convention("libero").to_product(np.zeros(shape))


def test_an_action_that_is_not_finite_is_refused_and_named():
    broken = np.zeros((3, 7))
    broken[2, 4] = np.nan
    with pytest.raises(ContractError, match=r"value \[2, 4\]"):
        convention("bridge_orig").to_product(broken)


def test_a_space_that_counts_from_the_commanded_pose_asks_for_it():
    with pytest.raises(ContractError, match="pass start="):
        convention("arx5_pose").to_product(np.zeros((1, 7)))


def test_an_unknown_action_space_is_answered_with_the_known_ones():
    with pytest.raises(ContractError, match=r"'libero_env'; valid names: .*bridge_orig.*simpler_widowx.*mean libero"):
        convention("libero_env")


def test_every_action_space_says_where_it_is_read_from():
    assert all(c.source for c in CONVENTIONS.values())


def test_published_statistics_lead_to_the_action_space_behind_them():
    assert of_statistics("libero_10_no_noops").name == of_statistics("libero_spatial").name == "libero_rlds"
    assert all(of_statistics(key).name in CONVENTIONS for key in OF_STATISTICS)


def test_statistics_of_an_unknown_data_set_are_never_guessed():
    with pytest.raises(ContractError, match="'my_kitchen'.*Name the action space yourself, one of arx5_metres"):
        of_statistics("my_kitchen")


def test_a_sticky_gripper_repeats_a_push_and_looks_away_meanwhile():
    sticky = StickyGripper(steps=3)
    openings = [1.0, 0.9, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    pushes = [sticky(opening) for opening in openings]
    # 0.9 is too small a change and passes as it is; the push from 1 to 0 lasts three steps; then opening does.
    assert np.allclose(pushes, [0, 0.1, 1, 1, 1, -1, -1, -1, 0])


def test_a_sticky_gripper_forgets_with_the_episode():
    sticky = StickyGripper()
    sticky(1.0)
    assert sticky(0.0) == 1.0
    sticky.reset()
    assert sticky(0.0) == 0.0


def test_a_rotation_of_fractal_is_a_vector_as_recorded_and_angles_as_published_models_say_it():
    numbers = np.array([[0, 0, 0, 0.4, -0.3, 0.5, 1.0]])
    recorded = convention("fractal_raw").to_product(numbers, start())
    said = convention("fractal20220817_data").to_product(numbers)
    assert np.allclose(recorded[0, 3:6], numbers[0, 3:6])
    assert np.allclose(said[0, 3:6], Reference.from_euler("xyz", numbers[0, 3:6]).as_rotvec())
