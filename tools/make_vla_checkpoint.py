#!/usr/bin/env python3
"""Writes a random checkpoint in the exact file layout of OpenVLA (a Hugging Face folder) or of a Prismatic run (one
`.pt`), the same for the same seed. Needs torch, safetensors and numpy only, so that the original code's environment
can run it too.

    tools/make_vla_checkpoint.py OUT --size 1b --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WORDS, ROWS, EMPTY = 32000, 32064, 29871
BINS = 256
BLOCK = 1 << 20  # larger tensors repeat as many numbers: a gigabyte of new ones would take minutes
TIMM = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")


@dataclass(frozen=True)
class Tower:
    width: int
    depth: int
    heads: int
    feed_forward: int


@dataclass(frozen=True)
class Size:
    dino: Tower
    siglip: Tower
    width: int
    heads: int
    feed_forward: int
    layers: int
    shard_bytes: int


SIZES = {
    "tiny": Size(Tower(32, 3, 2, 64), Tower(48, 3, 4, 80), 64, 4, 96, 4, 10 << 20),
    "small": Size(Tower(32, 3, 2, 64), Tower(48, 3, 4, 80), 768, 6, 2048, 4, 100 << 20),
    "1b": Size(Tower(1024, 24, 16, 4096), Tower(1152, 27, 16, 4304), 2048, 16, 5504, 8, 1 << 30),
    "7b": Size(Tower(1024, 24, 16, 4096), Tower(1152, 27, 16, 4304), 4096, 32, 11008, 32, 5 << 30),
}


def tower_shapes(tower: Tower, dino: bool) -> dict[str, tuple[int, ...]]:
    width, hidden = tower.width, tower.feed_forward
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 256, width)}
    if dino:
        shapes |= {"cls_token": (1, 1, width), "reg_token": (1, 4, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    for i in range(tower.depth):
        at = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        shapes |= _linear(f"{at}attn.qkv", 3 * width, width) | _linear(f"{at}attn.proj", width, width)
        shapes |= _linear(f"{at}mlp.fc1", hidden, width) | _linear(f"{at}mlp.fc2", width, hidden)
        if dino:
            shapes |= {f"{at}ls1.scale_factor": (width,), f"{at}ls2.scale_factor": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    if not dino:
        shapes |= {
            "attn_pool.latent": (1, 1, width),
            "attn_pool.norm.weight": (width,),
            "attn_pool.norm.bias": (width,),
        }
        shapes |= _linear("attn_pool.q", width, width) | _linear("attn_pool.kv", 2 * width, width)
        shapes |= _linear("attn_pool.proj", width, width)
        shapes |= _linear("attn_pool.mlp.fc1", hidden, width) | _linear("attn_pool.mlp.fc2", width, hidden)
    return shapes


def shapes_of(size: Size) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its name in the Hugging Face layout."""
    shapes = {f"vision_backbone.featurizer.{n}": s for n, s in tower_shapes(size.dino, True).items()}
    shapes |= {f"vision_backbone.fused_featurizer.{n}": s for n, s in tower_shapes(size.siglip, False).items()}
    seen, width = size.dino.width + size.siglip.width, size.width
    shapes |= _linear("projector.fc1", 4 * seen, seen) | _linear("projector.fc2", width, 4 * seen)
    shapes |= _linear("projector.fc3", width, width)
    shapes["language_model.model.embed_tokens.weight"] = (ROWS, width)
    for i in range(size.layers):
        at = f"language_model.model.layers.{i}."
        shapes |= {f"{at}self_attn.{n}_proj.weight": (width, width) for n in "qkvo"}
        shapes |= {f"{at}mlp.{n}_proj.weight": (size.feed_forward, width) for n in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (width, size.feed_forward)
        shapes |= {f"{at}{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
    shapes["language_model.model.norm.weight"] = (width,)
    shapes["language_model.lm_head.weight"] = (ROWS, width)
    return shapes


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """float32 numbers that depend on seed, name and shape only. Only action words are ever the likeliest."""
    count = int(np.prod(shape))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = np.resize(rng.standard_normal(min(count, BLOCK), dtype=np.float32), shape)
    leaf = name.rsplit(".", 2)[-2:]
    if "norm" in leaf[0] and leaf[1] == "weight":
        values = 1.0 + 0.2 * values
    elif leaf[1] == "scale_factor":
        values = 0.5 + 0.2 * values
    elif leaf[1] == "bias":
        values = 0.1 * values
    elif len(shape) > 1 and "embed_tokens" not in name:
        values = values / np.sqrt(np.prod(shape[1:]))
    if name.endswith("lm_head.weight"):
        values[: WORDS - BINS] *= 0.01
        values[WORDS:] *= 0.01
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def tensors(size: Size, seed: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape in shapes_of(size).items():
        yield name, tensor(name, shape, seed).to(dtype)


def config_of(size: Size, statistics: Mapping, dtype: str) -> dict:
    """As a converted checkpoint has it; `vision_shapes` and the sizes in `text_config` say what is not as published."""
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [224, 224],
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "n_action_bins": BINS,
        "norm_stats": statistics,
        "pad_to_multiple_of": ROWS - WORDS,
        "pad_token_id": WORDS,
        "text_config": text_config(size, dtype),
        "timm_model_ids": list(TIMM),
        "timm_override_act_layers": [None, None],
        "torch_dtype": dtype,
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "vision_shapes": [asdict(size.dino), asdict(size.siglip)],
    }


def text_config(size: Size, dtype: str) -> dict:
    return {
        "model_type": "llama",
        "pad_token_id": WORDS,
        "torch_dtype": dtype,
        "vocab_size": ROWS,
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers,
    }


def statistics(keys: tuple[str, ...] = ("bridge_orig",)) -> dict:
    """q01 and q99 of the public BridgeData V2 statistics, rounded, under each key."""
    q01 = [-0.0287, -0.0417, -0.0261, -0.0809, -0.0929, -0.2072, 0.0]
    q99 = [0.0283, 0.0409, 0.0402, 0.0819, 0.0779, 0.2038, 1.0]
    action = {"q01": q01, "q99": q99, "mask": [True] * 6 + [False]}
    return {key: {"action": action, "num_transitions": 1000, "num_trajectories": 10} for key in keys}


def preprocessor() -> dict:
    """As conversion writes it: the normalisation once as it is, and once rounded to bfloat16."""
    rounded = ([0.484375, 0.455078125, 0.40625], [0.228515625, 0.2236328125, 0.224609375]), ([0.5] * 3, [0.5] * 3)
    resize = {"antialias": True, "interpolation": 3, "max_size": None, "size": [224, 224]}
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, 224, 224], [3, 224, 224]],
        "interpolations": ["bicubic", "bicubic"],
        "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
        "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
        "tvf_crop_params": [{"output_size": [224, 224]}] * 2,
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_normalize_params": [{"inplace": False, "mean": mean, "std": std} for mean, std in rounded],
        "tvf_resize_params": [resize] * 2,
        "use_fused_vision_backbone": True,
    }


def tokenizer(words: int = WORDS) -> dict:
    """A byte-pair tokenizer built like Llama-2's: the same normaliser, special and empty pieces, few merges."""
    letters = [*"abcdefghijklmnopqrstuvwxyzIOW?:.,\n'0123456789"]
    merges = [("t", "h"), ("th", "e"), ("▁", "a"), ("▁", "t"), ("o", "n"), ("r", "o"), ("b", "l"), ("o", "ck")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    pieces += [a + b for a, b in merges[:-1]]
    kept = [*pieces, *(f"<{i}>" for i in range(len(pieces), words))]
    kept[min(EMPTY, words - 1)] = "▁"
    special = [{"id": i, "content": kept[i]} for i in range(3)] + [{"id": words, "content": "<PAD>"}]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**entry, **flags} for entry in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(kept)},
            "merges": [f"{a} {b}" for a, b in merges[:-1]],
        },
    }


def write_folder(folder: Path, size: Size, seed: int = 0, dtype: str = "float32") -> Path:
    """A Hugging Face folder with an index and shards."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_of(size, statistics(), dtype))
    _write_json(folder / "preprocessor_config.json", preprocessor())
    _write_json(folder / "tokenizer.json", tokenizer())
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, value in tensors(size, seed, getattr(torch, dtype)):
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + value.nbytes > size.shard_bytes:
            save_file(shards[-1], folder / f"part-{len(shards)}")
            shards[-1] = dict.fromkeys(shards[-1])  # names only
            shards.append({})
        shards[-1][name] = value
    save_file(shards[-1], folder / f"part-{len(shards)}")
    weight_map = {}
    for i, held in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{i}").replace(folder / file)
        weight_map |= dict.fromkeys(held, file)
    total = sum(int(np.prod(s)) for s in shapes_of(size).values()) * getattr(torch, dtype).itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    return folder


def write_run(folder: Path, size: Size, seed: int = 0, dtype: str = "float32") -> Path:
    """A Prismatic run: config.json, dataset_statistics.json, one `.pt`; and the tokenizer, which such runs lack."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    config = {"vla": {"vla_id": "tiny", "base_vlm": "prism-dinosiglip-224px+7b"}}
    sizes = {"text_config": text_config(size, dtype), "vision_shapes": [asdict(size.dino), asdict(size.siglip)]}
    _write_json(folder / "config.json", config | sizes)
    _write_json(folder / "dataset_statistics.json", statistics())
    _write_json(folder / "tokenizer.json", tokenizer())
    parts = prismatic_parts(tensors(size, seed, getattr(torch, dtype)))
    torch.save({"model": parts}, folder / "checkpoints" / "step-000001-epoch-00-loss=1.0000.pt")
    return folder


def prismatic_parts(named: Iterator[tuple[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """From the names of the Hugging Face layout to the parts and names of a Prismatic run."""
    numbers = {"fc1": "0", "fc2": "2", "fc3": "4"}
    parts: dict[str, dict[str, torch.Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    for name, value in named:
        first, second, rest = name.split(".", 2)
        if first == "vision_backbone":
            tower = {"featurizer": "dino_featurizer", "fused_featurizer": "siglip_featurizer"}[second]
            parts[first][f"{tower}.{rest.replace('scale_factor', 'gamma')}"] = value
        elif first == "projector":
            parts[first][f"projector.{numbers[second]}.{rest}"] = value
        else:
            parts["llm_backbone"][f"llm.{second}.{rest}"] = value
    return parts


def _write_json(path: Path, body: object) -> None:
    path.write_text(json.dumps(body, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--layout", choices=("huggingface", "prismatic"), default="huggingface")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write = write_folder if args.layout == "huggingface" else write_run
    print(write(args.out, SIZES[args.size], args.seed, args.dtype))


if __name__ == "__main__":
    main()
