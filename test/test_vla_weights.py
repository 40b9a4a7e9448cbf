"""A VLA's files are checked as a whole, loaded piece by piece, or refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vla_parts import TINY, TOOLS, edit_json, hf_folder, linked_copy, maker, run_folder  # noqa: F401

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.vla import checkpoint, layout
from actdistill_ros.policy.vla.images import VisionInput
from actdistill_ros.policy.vla.layout import is_vla
from actdistill_ros.policy.vla.openvla import PrismaticShape, unfilled
from actdistill_ros.policy.vla.tokens import ActionBins
from actdistill_ros.policy.vla.weights import free_bytes, stored_name

INDEX = "model.safetensors.index.json"
NORM = "language_model.model.norm.weight"


@pytest.fixture
def folder(hf_folder, tmp_path) -> Path:  # noqa: F811
    return linked_copy(hf_folder, tmp_path / "copy")


def change_shard(folder: Path, change) -> None:
    """change: alters the tensors of the shard with the last norm in place; the index follows."""
    files = json.loads((folder / INDEX).read_text())["weight_map"]
    path = folder / files[NORM]
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)
    kept = {n: f for n, f in files.items() if f != path.name} | dict.fromkeys(tensors, path.name)
    edit_json(folder / INDEX, lambda body: body | {"weight_map": kept})


def test_both_layouts_hold_the_same_numbers(hf_folder, run_folder):  # noqa: F811
    one, other = (checkpoint.load(f, dtype="float32").model.state_dict() for f in (hf_folder, run_folder))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["lm_head.weight"], maker.tensor("language_model.lm_head.weight", (32064, TINY.width), 0))


def test_a_run_may_be_named_by_its_file(run_folder):  # noqa: F811
    file = next((run_folder / "checkpoints").glob("*.pt"))
    assert checkpoint.load(file).identity == checkpoint.load(run_folder).identity


def test_published_sizes_are_openvlas():
    """7 541 237 184 parameters, of which the last blocks, norms and the pool of the towers are not made."""
    model = unfilled(PrismaticShape())
    made = {stored_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    published = maker.shapes_of(maker.SIZES["7b"])
    assert made.items() <= published.items()
    assert sum(int(np.prod(shape)) for shape in published.values()) == 7_541_237_184
    left = {name.split(".")[2] for name in published.keys() - made.keys()}
    assert left == {"blocks", "norm", "attn_pool"}


def test_a_converted_config_says_what_the_library_does_not(hf_folder, run_folder, tmp_path):  # noqa: F811
    """Published folders name only what is not the default; a run has Llama-2's own epsilon."""
    text = {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064}
    edit_json(linked_copy(hf_folder, tmp_path / "a") / "config.json", lambda c: _bare(c, text))
    shape = layout.read(tmp_path / "a").shape
    assert shape == PrismaticShape() and shape.decoder.rms_eps == 1e-6
    edit_json(linked_copy(run_folder, tmp_path / "b") / "config.json", lambda c: {"vla": c["vla"]})
    assert layout.read(tmp_path / "b").shape.decoder.rms_eps == 1e-5


def _bare(config: dict, text: dict) -> dict:
    return {k: v for k, v in config.items() if k != "vision_shapes"} | {"text_config": text}


def test_a_missing_tensor_is_named_with_its_shape(folder):
    change_shard(folder, lambda tensors: tensors.pop(NORM))
    with pytest.raises(ContractError, match=rf"{NORM} is missing, expected \(64,\)"):
        checkpoint.load(folder)


def test_an_extra_tensor_is_named(folder):
    change_shard(folder, lambda tensors: tensors.update(stranger=torch.zeros(2, 3)))
    with pytest.raises(ContractError, match=r"stranger \(2, 3\) is no part of this model"):
        checkpoint.load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder):
    change_shard(folder, lambda tensors: tensors.update({NORM: torch.zeros(65)}))
    with pytest.raises(ContractError, match=rf"{NORM} is \(65,\), expected \(64,\)"):
        checkpoint.load(folder)


def test_tensors_that_features_never_pass_may_be_absent_but_not_misshapen(folder):
    pool = "vision_backbone.fused_featurizer.attn_pool.latent"
    path = next(p for p in folder.glob("model-*.safetensors") if pool in load_file(p))
    tensors = load_file(path)
    path.unlink()
    save_file({n: t for n, t in tensors.items() if n != pool}, path)
    edit_json(folder / INDEX, lambda body: body["weight_map"].pop(pool) and None)
    checkpoint.load(folder)
    path.unlink()
    save_file(tensors | {pool: torch.zeros(1, 2, 48)}, path)
    edit_json(folder / INDEX, lambda body: body["weight_map"].update({pool: path.name}))
    with pytest.raises(ContractError, match=r"attn_pool.latent is \(1, 2, 48\), expected \(1, 1, 48\)"):
        checkpoint.load(folder)


def test_an_index_of_another_copy_is_refused(folder):
    edit_json(folder / INDEX, lambda body: body["weight_map"].pop(NORM) and None)
    with pytest.raises(ContractError, match=f"holds, unlike its index, {NORM}"):
        checkpoint.load(folder)


@pytest.mark.parametrize("layout_name", ("hf_folder", "run_folder"))
def test_a_truncated_file_is_named(layout_name, request, tmp_path):
    copy = linked_copy(request.getfixturevalue(layout_name), tmp_path / "copy")
    path = max(copy.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ContractError, match=rf"{path.name}.*(truncated|damaged)"):
        checkpoint.load(copy)


def test_a_missing_shard_is_named(folder):
    path = next(folder.glob("model-*.safetensors"))
    path.unlink()
    with pytest.raises(ContractError, match=f"{path.name} is missing, but the index names it"):
        checkpoint.load(folder)


def test_a_pt_file_that_holds_code_is_not_run(run_folder, tmp_path):  # noqa: F811
    copy, witness = linked_copy(run_folder, tmp_path / "copy"), tmp_path / "witness"
    path = next((copy / "checkpoints").glob("*.pt"))
    path.unlink()
    torch.save({"model": _Code(str(witness))}, path)
    with pytest.raises(ContractError, match="holds code, which is never run"):
        checkpoint.load(copy)
    assert not witness.exists()


class _Code:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_converted_folder_may_hold_other_checkpoints_too(folder):
    (folder / "checkpoints").mkdir()
    assert layout.read(folder).prismatic is None


def test_two_checkpoints_in_a_run_have_to_be_told_apart(run_folder, tmp_path):  # noqa: F811
    copy = linked_copy(run_folder, tmp_path / "copy")
    (copy / "checkpoints" / "step-2.pt").write_bytes(b"")
    with pytest.raises(ContractError, match=r"must hold one \.pt file, found .*step-2\.pt\. Move the others"):
        checkpoint.load(copy)
    for file in (copy / "checkpoints").glob("*.pt"):
        file.unlink()
    with pytest.raises(ContractError, match=r"must hold one \.pt file, found none\. Copy the run's file there"):
        checkpoint.load(copy)


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_number_that_is_not_finite_is_named(folder, value):
    change_shard(folder, lambda tensors: tensors[NORM].fill_(value))
    with pytest.raises(ContractError, match=f"{NORM} is not finite as bfloat16"):
        checkpoint.load(folder)


def test_a_number_too_large_for_half_precision_is_refused_there_only(folder):
    change_shard(folder, lambda tensors: tensors[NORM].fill_(1e5))
    with pytest.raises(ContractError, match="take bfloat16"):
        checkpoint.load(folder, dtype="float16")
    checkpoint.load(folder, dtype="bfloat16")


def test_too_little_memory_is_said_before_a_weight_is_read(folder):
    change_shard(folder, lambda tensors: tensors[NORM].fill_(float("nan")))  # would be refused while reading
    with pytest.raises(ContractError, match=r"the weights take 0\.0 GiB as float32, cpu has 0\.0 GiB free"):
        checkpoint.load(folder, dtype="float32", available=1 << 20)
    assert free_bytes("cpu") > 1 << 20


def test_a_type_that_weights_are_not_held_in_is_refused(hf_folder):  # noqa: F811
    with pytest.raises(ContractError, match="bfloat16, float16, float32, int8, int4; got 'int3'"):
        checkpoint.load(hf_folder, dtype="int3")


# -- statistics
def test_statistics_beside_the_weights_overrule_the_base_models(folder):
    (folder / "dataset_statistics.json").write_text(json.dumps(maker.statistics(("libero_goal_no_noops",))))
    assert checkpoint.load(folder).statistics_key == "libero_goal_no_noops"
    assert checkpoint.load(folder, "libero_goal").statistics_key == "libero_goal_no_noops"


def test_an_unknown_or_ambiguous_key_is_refused_with_the_valid_ones(folder):
    (folder / "dataset_statistics.json").write_text(json.dumps(maker.statistics(("bridge_orig", "kuka"))))
    with pytest.raises(ContractError, match="statistics of 2 datasets; name one of bridge_orig, kuka"):
        checkpoint.load(folder)
    with pytest.raises(ContractError, match=r"no statistics 'bridge'; valid keys: bridge_orig, kuka"):
        checkpoint.load(folder, "bridge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["bridge_orig"]["action"].pop("q99"), "expected action.q01 and action.q99"),
        (lambda s: s["bridge_orig"]["action"]["q01"].append(0.0), "have shapes"),
        (lambda s: s["bridge_orig"]["action"]["q99"].__setitem__(2, -9.0), "q01 is above q99 in dimension 2"),
        (lambda s: s["bridge_orig"]["action"]["q99"].__setitem__(2, float("nan")), "not finite"),
        (lambda s: s["bridge_orig"].update(action={"q01": [0] * 14, "q99": [1] * 14}), "14 dimensions, this arm"),
        (lambda s: s.clear(), "has no action statistics"),
    ],
)
def test_wrong_statistics_are_refused(folder, change, message):
    statistics = json.loads(json.dumps(maker.statistics()))
    change(statistics)
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    with pytest.raises(ContractError, match=message):
        checkpoint.load(folder)


# -- words and pixels
@pytest.mark.parametrize("words", (31999, 32001))
def test_a_tokenizer_of_another_size_is_refused(folder, words):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(maker.tokenizer(words)))
    with pytest.raises(ContractError, match=rf"has {words} words .* expected 32000"):
        checkpoint.load(folder)


def test_a_missing_tokenizer_is_refused_and_may_lie_elsewhere(folder, hf_folder):  # noqa: F811
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ContractError, match=r"tokenizer\.json is missing"):
        checkpoint.load(folder)
    checkpoint.load(folder, tokenizer=hf_folder / "tokenizer.json")


def test_action_words_are_the_last_of_the_vocabulary_and_higher_values_lower_words():
    bins = ActionBins(32000)
    assert bins.encode(np.array([-2.0, -1.0, 1.0, 2.0])).tolist() == [31999, 31999, 31744, 31744]
    values = np.linspace(-1, 1, 1001)
    assert np.abs(bins.decode(bins.encode(values)) - values).max() <= 1 / 255 + 1e-12
    assert np.array_equal(bins.encode(bins.centres), 31999 - np.arange(255))
    assert bins.are_actions([31744, 31999]) and not bins.are_actions([31743]) and not bins.are_actions([32000])


def test_the_preprocessor_goes_by_its_rounded_normalisation_where_it_has_one(folder, run_folder):  # noqa: F811
    assert checkpoint.load(folder).vision.means[0] == (0.484375, 0.455078125, 0.40625)
    edit_json(folder / "preprocessor_config.json", lambda c: c.pop("tvf_normalize_params") and None)
    assert checkpoint.load(folder).vision.means[0] == (0.485, 0.456, 0.406)
    assert checkpoint.load(run_folder).vision.means[0] == (0.485, 0.456, 0.406)


def test_the_centre_crop_keeps_that_share_of_the_area():
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[5:195, 10:390] = 200  # the middle 0.9025 of the area
    cropped, whole = (VisionInput(means=((0,) * 3,) * 2, stds=((1,) * 3,) * 2, crop_area=a) for a in (0.9025, 1.0))
    assert cropped.pixels(picture).min() > 0.78 and whole.pixels(picture).min() == 0.0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c.update(timm_model_ids=["vit_so400m_patch14_siglip_224"]), "vision towers"),
        ("config.json", lambda c: c["text_config"].update(model_type="mistral"), "model_type is 'mistral'"),
        ("config.json", lambda c: c["text_config"].update(num_attention_heads=7), "do not divide"),
        ("config.json", lambda c: c["vision_shapes"][0].update(color=1), "vision_shapes has color"),
        ("config.json", lambda c: c["text_config"].update(num_hidden_layers=5), r"layers\.4\..* is missing"),
        ("preprocessor_config.json", lambda c: c.update(image_resize_strategy="letterbox"), "'letterbox'"),
        ("preprocessor_config.json", lambda c: c["tvf_normalize_params"].pop(), "two of three numbers"),
    ],
)
def test_a_model_that_is_not_run_here_is_refused(folder, file, change, message):
    edit_json(folder / file, lambda body: change(body) and None)
    with pytest.raises(ContractError, match=message):
        checkpoint.load(folder)


def test_a_vla_is_told_from_this_packages_own_policies(hf_folder, run_folder):  # noqa: F811
    assert is_vla(hf_folder) and is_vla(run_folder)
    assert not is_vla(Path(__file__).parents[1] / "models" / "tabletop-teacher")


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    """In a process of its own: half precision on disk, float32 in memory, 0.3 GB of weights."""
    maker.write_folder(tmp_path / "small", maker.SIZES["small"], dtype="bfloat16")
    command = [sys.executable, str(TOOLS / "measure_vla_load.py"), str(tmp_path / "small"), "--dtype", "float32"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["weights_bytes"] > 3e8 and found["peak_share"] <= 1.2
