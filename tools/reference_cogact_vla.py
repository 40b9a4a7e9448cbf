"""Runs the whole of CogACT's own code on a random checkpoint in its file layout, and keeps what it says in
test/data/cogact/vla.npz. Run once, where tools/reference_cogact.py runs, with its two clones on PYTHONPATH:

    python -O tools/reference_cogact_vla.py --out test/data/cogact/vla.npz --commit COMMIT_OF_COGACT

Without -O the original refuses any language model but one of width 4096. Arranged around it: timm's two models and
Llama's config have the checkpoint's small sizes, the tokenizer is the checkpoint's, the head's "no condition" has the
small width, and packages are entered below their own start, which would import the training stack. The original loads
the checkpoint itself, strictly: not one name or shape may differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_vla_checkpoint import SIZES, TIMM, WORDS, text_config, write_run
from reference_cogact import fill, pretend_torchvision_has_operators
from reference_openvla import INSTRUCTIONS, frames

HEAD, SEED, NOISE_SEED = "DiT-S", 0, 11
PLANS = {"all": (0, 1, 2, 3), "ends": (0, 3)}
KEY = "bridge_orig"


def head_shapes(cognition: int) -> dict[str, tuple[int, ...]]:
    """The published shapes of the small head (test/data/cogact/heads.json), for a language model of another width."""
    body = json.loads((Path(__file__).parents[1] / "test" / "data" / "cogact" / "heads.json").read_text())
    return {name: tuple(cognition if n == 4096 else n for n in shape) for name, shape in body["shapes"][HEAD].items()}


def write_checkpoint(folder: Path) -> Path:
    """A CogACT run of random weights: RUN/config.json, dataset_statistics.json, checkpoints/NAME.pt."""
    size = SIZES["tiny"]
    write_run(folder, size, SEED)
    file = next((folder / "checkpoints").glob("*.pt"))
    body = torch.load(file, weights_only=True)
    body["model"]["action_model"] = fill(head_shapes(size.width))
    torch.save(body, file)
    return folder


def packages(*names: str) -> None:
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [
            str(Path(p) / Path(*name.split("."))) for p in sys.path if (Path(p) / Path(*name.split("."))).is_dir()
        ]
        sys.modules[name] = package


def original(folder: Path):
    """The original's model, loaded by its own loader from the file."""
    pretend_torchvision_has_operators()
    packages("prismatic", "prismatic.models", "prismatic.models.vlms", "vla")
    import timm
    from prismatic.models.backbones.llm import base_llm
    from prismatic.models.backbones.llm.llama2 import LLaMa2LLMBackbone
    from prismatic.models.backbones.vision.dinosiglip_vit import DinoSigLIPViTBackbone
    from transformers import LlamaConfig, LlamaTokenizerFast

    size, make = SIZES["tiny"], timm.create_model

    def small(name: str, **given):
        tower = dict(zip(TIMM, (size.dino, size.siglip), strict=True))[name.removeprefix("timm/")]
        shape = {"embed_dim": tower.width, "depth": tower.depth, "num_heads": tower.heads}
        return make(name, **(given | {"pretrained": False}), **shape, mlp_ratio=tower.feed_forward / tower.width)

    timm.create_model = small
    # Llama-2-7b's own config says 1e-5; the table has the tokenizer's words, the original adds the padding itself.
    config = LlamaConfig(
        **(text_config(size, "float32") | {"vocab_size": WORDS, "pad_token_id": None, "rms_norm_eps": 1e-5})
    )
    base_llm.AutoConfig.from_pretrained = lambda *_, **__: config
    base_llm.AutoTokenizer.from_pretrained = lambda *_, **__: LlamaTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json")
    )
    from action_model.models import LabelEmbedder
    from vla.cogactvla import CogACT

    LabelEmbedder.__init__.__defaults__ = (0.1, (1, 1, size.width))
    model = CogACT.from_pretrained(
        next((folder / "checkpoints").glob("*.pt")),
        "prism-dinosiglip-224px+7b",
        DinoSigLIPViTBackbone("dinosiglip-vit-so-224px", "resize-naive"),
        LLaMa2LLMBackbone("llama2-7b-pure", inference_mode=True),
        enable_mixed_precision_training=False,
        arch_specifier="no-align+fused-gelu-mlp",
        action_model_type=HEAD,
        norm_stats=json.loads((folder / "dataset_statistics.json").read_text()),
    )
    return model.eval()


def outputs(folder: Path) -> dict[str, np.ndarray]:
    from PIL import Image

    model, found, heard = original(folder), {}, {}
    model.action_model.net.z_embedder.register_forward_pre_hook(
        lambda _, given: heard.__setitem__("cognition", given[0][0, 0])
    )
    sampler = model.action_model.create_ddim(10)
    walk = sampler.ddim_sample_loop

    def listened(function, shape, noise, **given):
        heard["noise"], heard["sample"] = noise[0], walk(function, shape, noise, **given)[0]
        return heard["sample"][None].repeat(2, 1, 1)

    sampler.ddim_sample_loop = listened
    llama = model.vlm.llm_backbone.llm.model
    layers = llama.layers
    for i, (frame, instruction) in enumerate(zip(frames(), INSTRUCTIONS, strict=True)):
        for plan, numbers in PLANS.items():
            llama.layers = torch.nn.ModuleList(layers[k] for k in numbers)
            for place, layer in enumerate(llama.layers):
                layer.self_attn.layer_idx = place
            torch.manual_seed(NOISE_SEED + i)
            actions, _ = model.predict_action(
                Image.fromarray(frame), instruction, KEY, 1.5, use_ddim=True, num_ddim_steps=10, do_sample=False
            )
            for name, value in heard.items():
                found[f"{i}.{plan}.{name}"] = value.detach().numpy()
            found[f"{i}.{plan}.actions"] = actions
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True, help="of the CogACT repository, written beside the answers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = outputs(write_checkpoint(Path(folder) / "run-tiny"))
    import timm
    import transformers

    versions = {m.__name__: m.__version__ for m in (torch, timm, transformers, np)} | {"CogACT": args.commit}
    np.savez_compressed(args.out, versions=json.dumps(versions), **found)
    print({name: value.shape for name, value in found.items()})


if __name__ == "__main__":
    main()
