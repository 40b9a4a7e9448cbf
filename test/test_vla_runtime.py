"""A published VLA's folder, with a deployment.json beside it, is a policy like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vla_parts import edit_json, frame, hf_folder, linked_copy, run_folder  # noqa: F401

from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.contract.preprocess import denormalise
from actdistill_ros.policy import loading
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.policy.vla import checkpoint
from actdistill_ros.policy.vla.policy import VlaPolicy

TOLD = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": "float32"}


@pytest.fixture
def folder(hf_folder, tmp_path) -> Path:  # noqa: F811
    copy = linked_copy(hf_folder, tmp_path / "openvla")
    (copy / "deployment.json").write_text(json.dumps(TOLD))
    return copy


def tell(folder: Path, **more) -> Path:
    edit_json(folder / "deployment.json", lambda told: told | more)
    return folder


def observation(instruction: str = "Close the drawer", **images: np.ndarray) -> Observation:
    pose = ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3))
    return Observation(images or {"front": frame()}, pose, 1.0, instruction, 7.0)


def test_a_step_is_the_models_words_unnormalised_and_converted_once(folder):
    runtime, result = loading.load(folder), None
    result = runtime.step(observation())
    loaded = checkpoint.load(folder, dtype="float32")
    ids = torch.tensor([loaded.reader.action_prompt("Close the drawer")])
    words = loaded.model.speak(loaded.model.vlm.embed_inputs(loaded.vision.pixels(frame()), ids), [True] * 4, 7)
    said = denormalise(loaded.bins.decode(words), loaded.active_statistics)[None]
    assert np.allclose(result.chunk.actions, convention("bridge_orig").to_product(said))
    assert result.chunk.actions.shape == (1, 7) and 0.0 <= result.chunk.actions[0, 6] <= 1.0
    assert (result.chunk.stamp_s, result.chunk.instruction) == (7.0, "Close the drawer")
    assert result.chunk.checkpoint_id == runtime.checkpoint_id == loaded.identity
    assert set(result.latency_ms) == {"preprocess", "encode", "router", "decoder", "head", "step"}


def test_its_contract_names_camera_rate_and_the_largest_step(folder):
    contract = loading.load(folder).contract
    assert [(c.name, c.source_height, c.source_width) for c in contract.cameras] == [("front", 48, 64)]
    assert (contract.action.period_s, contract.action.chunk, contract.action.execute) == (0.2, 1, 1)
    assert 0.05 < contract.action.translation_limit_m < 0.07


def test_the_layers_it_is_deployed_with_run_and_no_other(folder):
    runtime = loading.load(tell(folder, layers=[0, 3]))
    called = []
    for i, layer in enumerate(runtime._checkpoint.model.vlm.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    result = runtime.step(observation())
    assert called == [0, 3] * 7  # the prompt and six of the seven action words
    assert result.executed.tolist() == [True, False, False, True]
    assert result.budget == runtime.budget == result.compute_share == 0.5


def test_a_budget_that_the_layers_do_not_keep_is_refused(folder):
    runtime = loading.load(tell(folder, layers=[0, 3]))
    runtime.set_budget(None)
    runtime.set_budget(0.5)
    with pytest.raises(ContractError, match="the same 0.5 of its decoder in every step; budget 0.4"):
        runtime.set_budget(0.4)


def test_a_word_that_is_no_action_moves_nothing(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = "language_model.lm_head.weight"
    path = folder / index[name]
    tensors = load_file(path)
    tensors[name][31744:32000] *= -1e-6
    path.unlink()
    save_file(tensors, path)
    with pytest.raises(ContractError, match=r"not all of them actions \(31744 … 31999\): nothing is sent"):
        loading.load(folder).step(observation())


def test_a_missing_camera_is_named_with_those_that_are_there(folder):
    with pytest.raises(ContractError, match="needs camera front; the observation has wrist"):
        loading.load(folder).step(observation(wrist=frame()))


def test_a_prismatic_run_of_the_same_weights_acts_too(run_folder, tmp_path):  # noqa: F811
    copy = linked_copy(run_folder, tmp_path / "run")
    (copy / "deployment.json").write_text(json.dumps(TOLD))
    assert loading.load(copy).step(observation()).chunk.actions.shape == (1, 7)


def test_a_policy_of_this_package_is_loaded_as_before():
    assert isinstance(loading.load(Path(__file__).parents[1] / "models" / "tabletop-student"), PolicyRuntime)


def test_a_folder_without_deployment_is_refused_with_an_example(hf_folder):  # noqa: F811
    with pytest.raises(ContractError, match=r'deployment\.json is missing.*"camera": "front"'):
        loading.load(hf_folder)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"colour": 1}, "has colour; known are action_space, camera"),
        ({"frame": [48]}, r"frame is \[48\], expected \[height, width\]"),
        ({"period_s": 0}, "period_s is 0"),
        ({"layers": [0, 4]}, r"layers \[0, 4\]; expected one or more of 0 … 3"),
        ({"layers": []}, "expected one or more"),
        ({"execute": 4}, "OpenVLA makes one action per step"),
        ({"crop_area": 1.5}, "crop_area is 1.5"),
        ({"statistics": "kuka"}, "no statistics 'kuka'; valid keys: bridge_orig"),
        ({"action_space": "kuka"}, "no action space 'kuka'"),
        ({"dtype": "int3"}, "got 'int3'"),
    ],
)
def test_a_deployment_that_cannot_be_right_is_refused(folder, more, message):
    with pytest.raises(ContractError, match=message):
        loading.load(tell(folder, **more))


def test_statistics_of_an_unknown_data_set_need_their_action_space_named(folder):
    edit_json(folder / "config.json", lambda c: c.update(norm_stats={"my_arm": c["norm_stats"]["bridge_orig"]}))
    with pytest.raises(ContractError, match="'my_arm' belong to is not known"):
        loading.load(folder)
    assert isinstance(loading.load(tell(folder, action_space="product")), VlaPolicy)
