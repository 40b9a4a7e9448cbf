"""A published VLA's folder, with a deployment.json beside it, is a policy like any other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vla_parts import edit_json, frame, hf_folder, linked_copy, maker, run_folder  # noqa: F401

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
        ({"layers": []}, "expected a list of one or more"),
        ({"execute": 4}, "OpenVLA makes one action per step"),
        ({"crop_area": 1.5}, "crop_area is 1.5"),
        ({"statistics": "kuka"}, "no statistics 'kuka'; valid keys: bridge_orig"),
        ({"action_space": "kuka"}, "no action space 'kuka'"),
        ({"dtype": "int3"}, 'dtype is "int3", expected one of bfloat16, float16'),
        ({"camera": 5}, "camera is 5, expected a camera's name"),
        ({"camera": " "}, 'camera is " ", expected'),
        ({"frame": "48x64"}, r'frame is "48x64", expected \[height, width\]'),
        ({"frame": [48, 0]}, r"frame is \[48, 0\], expected"),
        ({"frame": [48.5, 64]}, r"frame is \[48\.5, 64\], expected"),
        ({"frame": ["48", 64]}, r'frame is \["48", 64\], expected'),
        ({"period_s": "0.2"}, 'period_s is "0.2", expected seconds'),
        ({"period_s": None}, "period_s is null, expected seconds"),
        ({"period_s": True}, "period_s is true, expected seconds"),
        ({"period_s": 1e9}, r"period_s is 1000000000\.0, expected seconds .* in 0\.001 … 10"),
        ({"period_s": float("nan")}, "period_s is NaN, expected seconds"),
        ({"crop_area": "0.9"}, 'crop_area is "0.9", expected a share'),
        ({"crop_area": 0}, "crop_area is 0, expected a share"),
        ({"statistics": 5}, "statistics is 5, expected the key"),
        ({"action_space": ["product"]}, r'action_space is \["product"\], expected the name'),
        ({"layers": "03"}, 'layers is "03", expected a list'),
        ({"layers": [0, "3"]}, r'layers is \[0, "3"\], expected a list'),
        ({"layers": [-1]}, r"layers is \[-1\], expected a list"),
        ({"dtype": None}, "dtype is null, expected one of"),
        ({"execute": "4"}, 'execute is "4", expected how many actions'),
        ({"execute": 0}, "execute is 0, expected how many actions"),
        ({"ensemble": 1.5}, r"ensemble is 1\.5, expected how many chunks"),
        ({"capture": "magic"}, 'capture is "magic", expected one of export'),
    ],
)
def test_a_deployment_that_cannot_be_right_is_refused(folder, more, message):
    tell(folder, **more)
    for ask in (loading.contract, loading.load):
        with pytest.raises(ContractError, match=message):
            ask(folder)


@pytest.mark.parametrize("name", ["camera", "frame", "period_s"])
def test_what_a_deployment_must_say_is_named_with_an_example(folder, name):
    edit_json(folder / "deployment.json", lambda told: told.pop(name) and None)
    with pytest.raises(ContractError, match=rf"deployment\.json: {name} is missing, expected .*for example"):
        loading.contract(folder)


def test_what_a_deployment_may_leave_out_may_be_null(folder):
    more = dict.fromkeys(("statistics", "action_space", "layers", "ensemble", "capture"))
    assert loading.contract(tell(folder, **more)) == loading.load(folder).contract


@pytest.mark.parametrize("content", [b"\xff\xfe\x00nothing", b"{half", b""])
@pytest.mark.parametrize("file", ["config.json", "deployment.json", "dataset_statistics.json"])
def test_a_file_that_is_no_json_text_is_named(folder, file, content):
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_bytes(content)
    for ask in (loading.contract, loading.load):
        with pytest.raises(ContractError, match=rf"{re.escape(file)} is no JSON"):
            ask(folder)


@pytest.mark.parametrize("body", ["[]", "5", "null"])
def test_a_deployment_that_is_no_object_is_refused_with_an_example(folder, body):
    (folder / "deployment.json").unlink()
    (folder / "deployment.json").write_text(body)
    with pytest.raises(ContractError, match="is not a deployment: expected an object, for example"):
        loading.contract(folder)


def test_statistics_of_an_unknown_data_set_need_their_action_space_named(folder):
    edit_json(folder / "config.json", lambda c: c.update(norm_stats={"my_arm": c["norm_stats"]["bridge_orig"]}))
    with pytest.raises(ContractError, match="'my_arm' belong to is not known"):
        loading.load(folder)
    assert isinstance(loading.load(tell(folder, action_space="product")), VlaPolicy)


# -- statistics that move an arm
PUBLISHED = {  # q01 and q99 as published with OpenVLA and CogACT, rounded
    "bridge_orig": [maker.statistics()["bridge_orig"]["action"][name] for name in ("q01", "q99")],
    "fractal20220817_data": [
        [-0.2245, -0.1482, -0.2316, -0.3518, -0.4193, -0.4364, 0.0],
        [0.1782, 0.1494, 0.2184, 0.5893, 0.3527, 0.4480, 1.0],
    ],
    "libero_spatial_no_noops": [
        [-0.7454, -0.6616, -0.9375, -0.1071, -0.2068, -0.1843, 0.0],
        [0.9375, 0.8759, 0.9321, 0.1039, 0.1768, 0.1457, 1.0],
    ],
}


def with_statistics(folder: Path, key: str, q01: list, q99: list, mask: tuple = (True,) * 6 + (False,)) -> Path:
    action = {"q01": q01, "q99": q99, "mask": list(mask)}
    (folder / "dataset_statistics.json").write_text(json.dumps({key: {"action": action, "num_transitions": 1}}))
    return folder


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_statistics_are_taken_and_a_thousandfold_of_them_is_refused(folder, key):
    q01, q99 = PUBLISHED[key]
    assert 0.01 < loading.contract(with_statistics(folder, key, q01, q99)).action.translation_limit_m < 0.5
    with_statistics(folder, key, *([1e3 * x for x in values] for values in (q01, q99)))
    for ask in (loading.contract, loading.load):
        with pytest.raises(ContractError, match=rf"statistics\.json: {key}: dimension \d .* is .* … .* m, exp"):
            ask(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda low, high: (low[:3].fill(0), high[:3].fill(0)), r"dimensions 0, 1 and 2, \[0\.0, 0\.0, 0\.0\]"),
        (lambda low, high: (low[2:3].fill(0.02), high[2:3].fill(0.02)), r"both 0\.02 in dimension 2 \("),
        (lambda low, high: high[4:5].fill(7.0), r"dimension 4 \(\w+\) is -0\.0929 … 7: one action could be 7\.\d* rad"),
    ],
)
def test_statistics_that_cannot_be_an_arms_are_refused_by_dimension_and_value(folder, change, message):
    low, high = np.array(PUBLISHED["bridge_orig"])
    change(low, high)
    with_statistics(folder, "bridge_orig", low.tolist(), high.tolist())
    with pytest.raises(ContractError, match=rf"dataset_statistics\.json: bridge_orig: .*{message}"):
        loading.contract(folder)


def test_a_direction_that_the_data_never_went_is_no_fault(folder):
    low, high = np.array(PUBLISHED["bridge_orig"])
    low[[2, 3]] = high[[2, 3]] = 0.0
    assert loading.contract(with_statistics(folder, "bridge_orig", low.tolist(), high.tolist()))


def test_another_units_action_space_is_refused_by_its_name(folder):
    folder = tell(with_statistics(folder, "my_arm", *PUBLISHED["libero_spatial_no_noops"]), action_space="product")
    with pytest.raises(ContractError, match=r"one action could be 1\.5\d* m, .*action_space 'product' is not theirs"):
        loading.contract(folder)
