#!/usr/bin/env python3
"""Runs OpenVLA's own code on the random checkpoint of tools/make_vla_checkpoint.py, and keeps what it says.

Not part of the package's tests: it was run once, in an environment of its own, and test/data/openvla_reference.npz is
what came out. It holds no code of the reference; it imports it:

    git clone the openvla/openvla repository (the commit is written into the file that this makes)
    python3.11 -m venv env
    env/bin/pip install torch "numpy<2" pillow pyyaml requests regex "huggingface_hub<0.26"
    env/bin/pip install --no-deps transformers==4.40.1 tokenizers==0.19.1 timm==0.9.10 safetensors torchvision
    env/bin/python tools/reference_openvla.py --openvla CLONE --out test/data/openvla_reference.npz

Three things are arranged around the reference: timm's two model names are made at the checkpoint's small sizes, two
operators that torchvision has only with a matching build of torch are declared (nothing here uses them), and the
package `prismatic` is entered below its own start, which would import the training stack.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_vla_checkpoint import SIZES, TIMM, write_folder

INSTRUCTIONS = ("Put the red block in the bowl", "close the drawer")
PLANS = {"all": (0, 1, 2, 3), "ends": (0, 3), "first": (0,), "odd": (1, 3)}
THINNED = {"all": 1, "ends": 4, "first": 4, "odd": 4}  # every so many-th logit is kept
SEED = 0


def frames() -> list[np.ndarray]:
    """Two (H, W, 3) uint8 pictures of other shape and content: noise over slopes, so that resizing has work to do."""
    made = []
    for seed, (height, width) in enumerate(((480, 640), (256, 256))):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        slopes = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
        coarse = rng.integers(-60, 60, (height // 8, width // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        made.append(np.clip(slopes + coarse, 0, 255).astype(np.uint8))
    return made


def reference(clone: Path) -> tuple[types.ModuleType, types.ModuleType, types.ModuleType]:
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    for name in ("prismatic", "prismatic.extern", "prismatic.extern.hf"):
        package = types.ModuleType(name)
        package.__path__ = [str(clone.joinpath(*name.split(".")))]
        sys.modules[name] = package
    from prismatic.extern.hf import configuration_prismatic, modeling_prismatic, processing_prismatic

    return configuration_prismatic, modeling_prismatic, processing_prismatic


def build(folder: Path, configuration, modeling):
    """The reference's model with the folder's weights, loaded strictly: not one name or shape may differ."""
    import timm
    from safetensors.torch import load_file

    size, make = SIZES["tiny"], timm.create_model

    def small(name: str, **given):
        tower = dict(zip(TIMM, (size.dino, size.siglip)))[name]
        shape = {"embed_dim": tower.width, "depth": tower.depth, "num_heads": tower.heads}
        return make(name, **given, **shape, mlp_ratio=tower.feed_forward / tower.width)

    modeling.timm.create_model = small
    body = json.loads((folder / "config.json").read_text())
    kept = ("vision_backbone_id", "llm_backbone_id", "arch_specifier", "image_resize_strategy", "text_config")
    config = configuration.OpenVLAConfig(**{k: body[k] for k in kept}, norm_stats=body["norm_stats"])
    config.torch_dtype = torch.float32
    model = modeling.OpenVLAForActionPrediction(config).float().eval()
    weights = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        weights |= load_file(shard)
    model.load_state_dict(weights, strict=True)
    return model


def words_of(folder: Path, instruction: str) -> torch.Tensor:
    from transformers import LlamaTokenizerFast

    tokenizer = LlamaTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
    return tokenizer(prompt, return_tensors="pt").input_ids


@torch.no_grad()
def outputs(folder: Path, clone: Path) -> dict[str, np.ndarray]:
    from PIL import Image

    configuration, modeling, processing = reference(clone)
    model = build(folder, configuration, modeling)
    processor = processing.PrismaticImageProcessor.from_pretrained(folder)
    found: dict[str, np.ndarray] = {}
    layers = model.language_model.model.layers
    for i, (frame, instruction) in enumerate(zip(frames(), INSTRUCTIONS)):
        ids = words_of(folder, instruction)
        pixels = processor(Image.fromarray(frame), return_tensors="pt")["pixel_values"]
        found[f"{i}.ids"], found[f"{i}.pixels"] = ids.numpy()[0], pixels.numpy()[0, :, ::8, ::8]
        found[f"{i}.features"] = model.vision_backbone(pixels)[0, ::8].numpy()
        told = torch.cat([ids, torch.tensor([[29871]])], dim=1)
        mask = torch.ones_like(told)
        for plan, numbers in PLANS.items():
            model.language_model.model.layers = torch.nn.ModuleList(layers[k] for k in numbers)
            out = model(told, mask, pixels, use_cache=False, output_hidden_states=True)
            found[f"{i}.{plan}.logits"] = out.logits[0, -1, :: THINNED[plan]].numpy()
            if plan == "all":
                found[f"{i}.hidden"] = out.hidden_states[-1][0, ::8].numpy()
            said = told
            for _ in range(7):
                out = model(said, torch.ones_like(said), pixels, use_cache=False)  # all words again, without cache
                said = torch.cat([said, out.logits[:, -1:].argmax(-1)], dim=1)
            found[f"{i}.{plan}.said"] = said[0, -7:].numpy()
        model.language_model.model.layers = layers
        # The reference's own way to an action, with its cache and its bins.
        found[f"{i}.action"] = model.predict_action(ids, "bridge_orig", pixel_values=pixels, do_sample=False)
    return found


def versions(clone: Path) -> dict[str, str]:
    import timm
    import tokenizers
    import torchvision
    import transformers

    asked = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    libraries = (torch, torchvision, transformers, tokenizers, timm, np)
    return {m.__name__: m.__version__ for m in libraries} | {
        "python": platform.python_version(),
        "openvla": commit.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openvla", type=Path, required=True, help="clone of the reference's repository")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = outputs(write_folder(Path(folder) / "tiny", SIZES["tiny"], SEED), args.openvla)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, versions=json.dumps(versions(args.openvla)), **found)
    print(args.out, args.out.stat().st_size, "bytes", versions(args.openvla))


if __name__ == "__main__":
    main()
