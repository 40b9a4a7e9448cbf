"""A checkpoint folder: weights (safetensors), shape (JSON) and contract; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actdistill_ros.contract import contract as contracts
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.policy.config import PolicyConfig, RouterConfig
from actdistill_ros.policy.model import Policy

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save(folder: Path, model: Policy, contract: Contract) -> None:
    """Write the whole checkpoint; weights appear last, so that a folder with weights is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    contract.save(folder)
    (folder / CONFIG).write_text(json.dumps(_shape(model.config), indent=1) + "\n")
    unfinished = folder / f"{WEIGHTS}.unfinished"
    save_file({k: v.detach().to("cpu", torch.float32).contiguous() for k, v in model.state_dict().items()}, unfinished)
    unfinished.chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read what it writes
    unfinished.replace(folder / WEIGHTS)


def load(folder: Path, device: str = "cpu") -> tuple[Policy, Contract]:
    """The policy in eval mode and its contract.

    Raises ContractError if something is missing, does not fit together, or does not have the shape the config promises.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ContractError(
                f"{folder} has no {name}; expected a checkpoint folder with {CONFIG}, {WEIGHTS}, {contracts.FILE}."
            )
    contract = contracts.load(folder)
    model = Policy(_config(folder / CONFIG))
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ContractError(f"{folder / WEIGHTS} cannot be read ({error}); copy the checkpoint again.") from error
    _check_shapes(model, weights, folder)
    model.load_state_dict(weights)
    _check_agreement(model.config, contract, folder)
    return model.to(device).eval(), contract


def identity(folder: Path) -> str:
    """Short name of exactly these weights: folder name and the first digits of their SHA-256."""
    return f"{folder.name}@{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:10]}"


def _shape(config: PolicyConfig) -> dict:
    """What a checkpoint does not have is left out, so that its config is that of the versions that did not know it."""
    body = {key: value for key, value in asdict(config).items() if value is not None}
    if config.router and not config.router.recent:
        del body["router"]["recent"]
    return body


def _config(path: Path) -> PolicyConfig:
    try:
        body = json.loads(path.read_text())
        router = RouterConfig(**body.pop("router")) if "router" in body else None
        return PolicyConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}, router=router)
    except (TypeError, json.JSONDecodeError) as error:
        raise ContractError(f"{path} is not a policy config this package reads: {error}") from error


def _check_shapes(model: Policy, weights: dict[str, torch.Tensor], folder: Path) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in weights.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ContractError(
                f"{folder / WEIGHTS}: {key} is {found.get(key, 'missing')}, expected "
                f"{expected.get(key, 'nothing of that name')}."
            )


def _check_agreement(config: PolicyConfig, contract: Contract, folder: Path) -> None:
    pairs = {
        "cameras": (config.cameras, tuple(camera.name for camera in contract.cameras)),
        "image size": ({config.image_size}, {camera.size for camera in contract.cameras}),
        "chunk length": (config.chunk, contract.action.chunk),
        "state dimension": (config.state_dim, len(contract.state)),
        "action dimension": (config.action_dim, len(contract.action.names)),
    }
    for what, (model, promised) in pairs.items():
        if model != promised:
            raise ContractError(
                f"{folder}: the model has {what} {model}, its contract {promised}; export the checkpoint again."
            )
