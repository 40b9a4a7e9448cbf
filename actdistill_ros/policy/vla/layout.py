"""What a VLA's folder says of itself, read before any weight is: its shape, its vocabulary, where its tensors lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.decoder import DecoderShape
from actdistill_ros.policy.vla.openvla import LLAMA2_7B, PrismaticShape
from actdistill_ros.policy.vla.vision import TOWERS, TowerShape

CONFIG = "config.json"
DEPLOYMENT = "deployment.json"  # what a robot is told of it
ROUTER, ROUTER_CONFIG = "router.safetensors", "router.json"  # of a distilled model, beside its weights
PADDED_TO = 64
# Prismatic's runs take Llama-2's own config, which the converted folders do not repeat.
BASE_VLMS = {"prism-dinosiglip-224px+7b": PrismaticShape(decoder=replace(LLAMA2_7B, rms_eps=1e-5, max_positions=4096))}


@dataclass(frozen=True)
class Layout:
    """folder: where config, statistics and tokenizer are. config: the whole file. vocabulary: the tokenizer's words.
    prismatic: the run's one `.pt` file; None for a Hugging Face folder."""

    folder: Path
    config: Mapping
    shape: PrismaticShape
    vocabulary: int
    bins: int
    prismatic: Path | None = None


def read(path: Path) -> Layout:
    """path: a Hugging Face folder, a Prismatic run's folder, or its `checkpoints/NAME.pt`.

    Raises ContractError if config.json is missing, cannot be read, or describes a model that this package does not run.
    """
    file = path if path.suffix == ".pt" else None
    folder = path.parent.parent if file else path
    config = _config(folder / CONFIG)
    if file is None and "vla" in config:
        file = _only_checkpoint(folder)
    try:
        shape = _shape(config, folder / CONFIG, prismatic=file is not None)
        padded_to = int(config.get("pad_to_multiple_of", PADDED_TO))
        bins = int(config.get("n_action_bins", 256))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{folder / CONFIG} does not describe a Prismatic model: {error!r}.") from error
    return Layout(folder, config, shape, shape.rows - padded_to, bins, file)


def is_vla(folder: Path) -> bool:
    """Whether config.json is a Prismatic VLA's, rather than one of this package's own policies'; a damaged one is where
    a deployment.json lies beside it."""
    try:
        config = read_json(folder / CONFIG)
    except OSError:
        return False
    except ContractError:
        return (folder / DEPLOYMENT).is_file()
    return isinstance(config, Mapping) and ("vision_backbone_id" in config or "vla" in config)


def read_json(path: Path) -> object:
    """Raises ContractError if the file is no JSON text, OSError if it cannot be opened."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of either: no text, no JSON
        raise ContractError(f"{path} is no JSON ({error}); copy it again.") from error


def _config(path: Path) -> Mapping:
    if not path.is_file():
        raise ContractError(
            f"{path} is missing; expected a Hugging Face folder of OpenVLA, or a Prismatic run with config.json, "
            "dataset_statistics.json and checkpoints/NAME.pt."
        )
    body = read_json(path)
    if not isinstance(body, Mapping):
        raise ContractError(f"{path} is not a model's config: expected an object.")
    return body


def _only_checkpoint(folder: Path) -> Path:
    found = sorted((folder / "checkpoints").glob("*.pt"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        mend = "Move the others out of it." if found else "Copy the run's file there."
        raise ContractError(f"{folder / 'checkpoints'} must hold one .pt file, found {names}. {mend}")
    return found[0]


def _shape(config: Mapping, path: Path, prismatic: bool) -> PrismaticShape:
    if prismatic:
        base = config["vla"]["base_vlm"]
        if base not in BASE_VLMS:
            raise ContractError(f"{path}: base_vlm is {base!r}; this package runs {', '.join(BASE_VLMS)}.")
        known = BASE_VLMS[base]
        ids = list(TOWERS)
    else:
        known, ids = PrismaticShape(), config["timm_model_ids"]
        _check_fused(config, path, ids)
    dino, siglip = _towers(ids, config.get("vision_shapes", ({}, {})), path)
    text = config.get("text_config", {})
    rows = int(text.get("vocab_size", known.rows))
    return PrismaticShape(dino, siglip, _decoder(text, known.decoder, path), rows)


def _check_fused(config: Mapping, path: Path, ids: Sequence[str]) -> None:
    if list(ids) != list(TOWERS):
        raise ContractError(
            f"{path}: vision towers {', '.join(ids)}; this package runs {' with '.join(TOWERS)} (dinosiglip at 224)."
        )
    wanted = {"use_fused_vision_backbone": True, "image_sizes": [224, 224], "timm_override_act_layers": [None, None]}
    for name, value in wanted.items():
        if (found := config.get(name, value)) != value:
            raise ContractError(f"{path}: {name} is {found!r}; this package runs {value!r} only.")


def _towers(ids: Sequence[str], sizes: Sequence[Mapping], path: Path) -> list[TowerShape]:
    """sizes: `vision_shapes` of the config, for towers of other sizes than published; same structure."""
    allowed = ("width", "depth", "heads", "feed_forward")
    for size in sizes:
        if unknown := size.keys() - set(allowed):
            raise ContractError(f"{path}: vision_shapes has {', '.join(unknown)}; expected {', '.join(allowed)}.")
    return [replace(TOWERS[name], **size) for name, size in zip(ids, sizes, strict=True)]


def _decoder(text: Mapping, known: DecoderShape, path: Path) -> DecoderShape:
    fixed = {
        "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "rope_scaling": None, "tie_word_embeddings": False, "bos_token_id": 1,
    }  # fmt: skip
    for name, value in fixed.items():
        if (found := text.get(name, value)) != value:
            raise ContractError(f"{path}: text_config.{name} is {found!r}; this package runs {value!r} only.")
    names = {
        "width": "hidden_size", "heads": "num_attention_heads", "feed_forward": "intermediate_size",
        "layers": "num_hidden_layers", "rms_eps": "rms_norm_eps", "rope_theta": "rope_theta",
        "max_positions": "max_position_embeddings",
    }  # fmt: skip
    shape = replace(known, **{ours: text[theirs] for ours, theirs in names.items() if theirs in text})
    shape = replace(shape, key_value_heads=text.get("num_key_value_heads", shape.heads))
    if shape.width % shape.heads or shape.heads % shape.key_value_heads:
        raise ContractError(
            f"{path}: width {shape.width}, {shape.heads} heads and {shape.key_value_heads} key-value heads do not "
            "divide."
        )
    if text.get("head_dim", shape.width // shape.heads) != shape.width // shape.heads:
        raise ContractError(f"{path}: text_config.head_dim is {text['head_dim']}, expected width / heads.")
    return shape
