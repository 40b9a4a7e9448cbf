"""This package's OpenVLA says what OpenVLA's own code says of the same files (tools/reference_openvla.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel
from vla_parts import REFERENCE, hf_folder, run_folder, tool  # noqa: F401

from actdistill_ros.contract.preprocess import denormalise
from actdistill_ros.policy.vla import checkpoint
from actdistill_ros.policy.vla.vision import Tower, TowerShape

TOLERANCE = 1e-4
reference = tool("reference_openvla")
CASES = range(len(reference.INSTRUCTIONS))


@pytest.fixture(scope="module")
def said() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def ours(hf_folder) -> checkpoint.VlaCheckpoint:  # noqa: F811
    return checkpoint.load(hf_folder, dtype="float32")


def plan_of(numbers: tuple[int, ...]) -> list[bool]:
    return [i in numbers for i in range(4)]


@pytest.mark.parametrize("case", CASES)
def test_prompt_and_pixels_are_the_references(ours, said, case):
    ids = ours.reader.action_prompt(reference.INSTRUCTIONS[case])
    assert ids == [*said[f"{case}.ids"], 29871]
    pixels = ours.vision.pixels(reference.frames()[case])
    assert np.array_equal(pixels.numpy()[0, :, ::8, ::8], said[f"{case}.pixels"])


@pytest.mark.parametrize("case", CASES)
def test_features_and_hidden_states_are_the_references(ours, said, case):
    pixels, ids = inputs(ours, case)
    with torch.no_grad():
        features = ours.model.vlm.vision(pixels)
        hidden = ours.model.vlm.decoder(ours.model.vlm.embed_inputs(pixels, ids), None)
    assert np.abs(features[0, ::8].numpy() - said[f"{case}.features"]).max() < TOLERANCE
    assert np.abs(hidden[0, ::8].numpy() - said[f"{case}.hidden"]).max() < TOLERANCE


@pytest.mark.parametrize("plan", reference.PLANS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_words_under_a_plan_are_the_references_without_those_layers(ours, said, case, plan):
    """The reference has those layers taken out and no cache; here they are left out, with one."""
    pixels, ids = inputs(ours, case)
    executed = plan_of(reference.PLANS[plan])
    with torch.no_grad():
        logits = ours.model(pixels, ids, executed)[0, -1, :: reference.THINNED[plan]]
        words = ours.model.speak(ours.model.vlm.embed_inputs(pixels, ids), executed, 7)
    assert np.abs(logits.numpy() - said[f"{case}.{plan}.logits"]).max() < TOLERANCE
    assert list(words) == said[f"{case}.{plan}.said"].tolist()


@pytest.mark.parametrize("layout", ("hf_folder", "run_folder"))
@pytest.mark.parametrize("case", CASES)
def test_actions_of_either_layout_are_the_references(ours, said, case, layout, request):
    loaded = checkpoint.load(request.getfixturevalue(layout), dtype="float32", statistics_key="bridge_orig")
    pixels, ids = inputs(ours, case)  # a run has no preprocessor file, hence unrounded means
    words = loaded.model.speak(loaded.model.vlm.embed_inputs(pixels, ids), [True] * 4, 7)
    action = denormalise(loaded.bins.decode(words), loaded.active_statistics)
    # A run takes Llama-2's own epsilon, 1e-5, a converted folder the library's, 1e-6: same words here, other hidden
    # states.
    assert np.abs(action - said[f"{case}.action"]).max() < TOLERANCE


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_half_precision_says_nearly_the_same(hf_folder, said, dtype):  # noqa: F811
    loaded = checkpoint.load(hf_folder, dtype=dtype)
    pixels, ids = inputs(loaded, 0)
    with torch.no_grad():
        logits = loaded.model(pixels.to(loaded.model.lm_head.weight.dtype), ids)[0, -1].float().numpy()
    assert all(p.dtype == loaded.model.lm_head.weight.dtype for p in loaded.model.parameters())
    assert np.corrcoef(logits, said["0.all.logits"])[0, 1] > 0.99


def test_towers_are_also_those_of_transformers():
    """A second opinion on the structure: transformers' own DINOv2 with registers and SigLIP with the same weights."""
    torch.manual_seed(0)
    dino = TowerShape(32, 3, 2, 128, registers=4, layer_scale=True)
    siglip = TowerShape(48, 3, 4, 80)
    for shape, other in ((dino, _dino_of_transformers(dino)), (siglip, _siglip_of_transformers(siglip))):
        tower = Tower(shape).eval()
        for value in tower.parameters():
            torch.nn.init.normal_(value, std=0.2)
        _give(tower, other)
        pixels = torch.randn(2, 3, 224, 224)
        with torch.no_grad():
            theirs = other(pixel_values=pixels, output_hidden_states=True).hidden_states[shape.depth - 1]
            assert torch.allclose(tower(pixels), theirs[:, shape.prefix :], atol=1e-5)


def inputs(loaded: checkpoint.VlaCheckpoint, case: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = loaded.vision.pixels(reference.frames()[case])
    return pixels, torch.tensor([loaded.reader.action_prompt(reference.INSTRUCTIONS[case])])


def _dino_of_transformers(shape: TowerShape) -> torch.nn.Module:
    config = Dinov2WithRegistersConfig(
        hidden_size=shape.width, num_hidden_layers=shape.depth, num_attention_heads=shape.heads, image_size=224,
        patch_size=14, num_register_tokens=4, layer_norm_eps=1e-6, mlp_ratio=shape.feed_forward // shape.width,
    )  # fmt: skip
    return Dinov2WithRegistersModel(config).eval()


def _siglip_of_transformers(shape: TowerShape) -> torch.nn.Module:
    config = SiglipVisionConfig(
        hidden_size=shape.width, num_hidden_layers=shape.depth, num_attention_heads=shape.heads, image_size=224,
        patch_size=14, intermediate_size=shape.feed_forward, hidden_act="gelu",
    )  # fmt: skip
    return SiglipVisionModel(config).eval()


_DINO_NAMES = {
    "blocks.": "encoder.layer.", "attn.proj": "attention.o_proj", "attn.": "attention.",
    "scale_factor": "lambda1", "ls1": "layer_scale1", "ls2": "layer_scale2",
    "patch_embed.proj": "embeddings.patch_embeddings.projection", "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
}  # fmt: skip
_SIGLIP_NAMES = {
    "blocks.": "encoder.layers.", "attn.proj": "self_attn.out_proj", "attn.": "self_attn.",
    "norm1": "layer_norm1", "norm2": "layer_norm2",
    "patch_embed.proj": "embeddings.patch_embedding", "pos_embed": "embeddings.position_embedding.weight",
}  # fmt: skip


def _give(tower: Tower, other: torch.nn.Module) -> None:
    """The tower's weights under transformers' names."""
    dino = bool(tower.shape.registers)
    theirs = {}
    for name, value in tower.state_dict().items():
        parts = {name: value}
        if "qkv" in name:
            parts = {name.replace("qkv", f"{n}_proj"): v for n, v in zip("qkv", value.chunk(3), strict=True)}
        if name == "pos_embed":  # timm's class token has no position
            parts = {name: torch.cat([torch.zeros(1, 1, tower.shape.width), value], dim=1) if dino else value[0]}
        for part, held in parts.items():
            for mine, other_name in (_DINO_NAMES if dino else _SIGLIP_NAMES).items():
                if mine in part and other_name not in part:
                    part = part.replace(mine, other_name, 1)
            theirs[part] = held
    assert theirs.keys() <= other.state_dict().keys()
    other.load_state_dict(theirs, strict=False)
