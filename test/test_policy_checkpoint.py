"""A checkpoint loads as it was saved, or says which file is wrong and how."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.runtime import PolicyRuntime
from policy_parts import FRAME, tiny_checkpoint


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "tiny")


def observation(instruction: str = "lift the red block", cameras=("front", "wrist")) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (FRAME, FRAME, 3), dtype=np.uint8) for name in cameras}
    return Observation(images, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, instruction, 12.5)


def edit(path, change) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_a_saved_policy_gives_the_same_chunk_after_loading(folder):
    first, second = PolicyRuntime.load(folder), PolicyRuntime.load(folder)
    a, b = first.step(observation()), second.step(observation())
    assert np.array_equal(a.chunk.actions, b.chunk.actions)
    assert a.chunk.actions.shape == (8, 7) and a.chunk.stamp_s == 12.5
    assert first.checkpoint_id == second.checkpoint_id


def test_the_weights_can_be_read_by_whoever_can_read_the_rest(folder):
    assert (folder / checkpoint.WEIGHTS).stat().st_mode == (folder / checkpoint.CONFIG).stat().st_mode


def test_no_action_exceeds_what_the_contract_promises(folder):
    model, _ = checkpoint.load(folder)
    torch.nn.init.normal_(model.head[-1].weight, std=10.0)
    save_file(model.state_dict(), folder / checkpoint.WEIGHTS)
    runtime = PolicyRuntime.load(folder)
    actions = runtime.step(observation()).chunk.actions
    assert np.linalg.norm(actions[:, :3], axis=1).max() <= runtime.contract.action.translation_limit_m + 1e-9
    assert np.linalg.norm(actions[:, 3:6], axis=1).max() <= runtime.contract.action.rotation_limit_rad + 1e-9
    assert set(np.unique(actions[:, 6])) <= {0.0, 1.0}


def test_a_fixed_plan_is_executed_and_reported(folder):
    result = PolicyRuntime.load(folder).with_plan([True, False]).step(observation())
    assert result.executed.tolist() == [True, False]
    with pytest.raises(ValueError, match="names 3 layers"):
        PolicyRuntime.load(folder).with_plan([True] * 3)


def test_a_missing_camera_is_named(folder):
    with pytest.raises(ContractError, match="needs camera wrist; the observation has front"):
        PolicyRuntime.load(folder).step(observation(cameras=("front",)))


def test_an_instruction_never_seen_in_training_brings_the_closest_known_ones(folder):
    runtime = PolicyRuntime.load(folder)
    assert runtime.unseen("Lift the red block!") == []
    assert runtime.unseen("lift the red block then push the blue block left") == []
    assert runtime.unseen("lift the blue block")[0] == "lift the red block"


def test_words_never_seen_do_not_stop_the_policy(folder):
    assert np.isfinite(PolicyRuntime.load(folder).step(observation("zzz")).chunk.actions).all()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "contract.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ContractError, match=f"has no {name}"):
        checkpoint.load(folder)


def test_a_truncated_weights_file_is_refused(folder):
    path = folder / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ContractError, match="cannot be read"):
        checkpoint.load(folder)


def test_a_missing_extra_or_misshaped_weight_is_named_with_its_expected_shape(folder):
    path = folder / checkpoint.WEIGHTS
    whole = load_file(path)
    save_file({k: v for k, v in whole.items() if k != "readout"}, path)
    with pytest.raises(ContractError, match=r"readout is missing, expected \(20,\)"):
        checkpoint.load(folder)
    save_file({**whole, "readout": torch.zeros(21)}, path)
    with pytest.raises(ContractError, match=r"readout is \(21,\), expected \(20,\)"):
        checkpoint.load(folder)
    save_file({**whole, "extra": torch.zeros(3)}, path)
    with pytest.raises(ContractError, match="extra is .*, expected nothing of that name"):
        checkpoint.load(folder)


def test_statistics_changed_by_hand_are_refused(folder):
    edit(folder / "contract.json", lambda body: body["statistics"]["test"]["q99"].__setitem__(0, 0.5))
    with pytest.raises(ContractError, match="do not match their hash"):
        checkpoint.load(folder)


def test_a_statistics_key_that_is_not_there_brings_the_valid_ones(folder):
    edit(folder / "contract.json", lambda body: body.__setitem__("statistics_key", "bridge"))
    with pytest.raises(ContractError, match="no statistics 'bridge'; valid keys: test"):
        checkpoint.load(folder)


def test_a_contract_that_promises_other_cameras_than_the_model_has_is_refused(folder):
    edit(folder / "contract.json", lambda body: body["cameras"].pop())
    with pytest.raises(ContractError, match="model has cameras"):
        checkpoint.load(folder)
