"""Makes test/data/cogact: what the original CogACT code answers, for the tests to compare this package with.

Run once, in an environment of its own; nothing of it is needed to run the tests:

    git clone CogACT and OpenVLA from github.com/microsoft/CogACT and github.com/openvla/openvla, then
    pip install torch --index-url (the CPU wheels); pip install timm==0.9.10 transformers==4.40.1 pillow
    PYTHONPATH=CogACT:openvla python tools/reference_cogact.py --out test/data/cogact --commit COMMIT_OF_COGACT

Weights are not stored: `fill` makes the same ones out of their names, here and in the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch

SEED = 7
COGNITION = 4096  # width of the language model; the original takes no other
CHUNK, ACTIONS = 16, 7
GUIDANCE, SAMPLING_STEPS = 1.5, 10
TIMES = (0, 37, 99)


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights that depend on nothing but their names and shapes, of a size that keeps activations near 1."""
    return {name: torch.from_numpy(_values(name, shape)) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight") or "layernorm" in name or "norm1.weight" in name or "norm2.weight" in name:
        return 1 + np.float32(0.1) * drawn
    if len(shape) < 2:
        return np.float32(0.1) * drawn
    fan_in = float(np.prod(shape[1:]))
    return np.float32(1.0 if "embed" in name and "linear" not in name else fan_in**-0.5) * drawn


def drawn(name: str, *shape: int) -> torch.Tensor:
    """Inputs, the same here and in the tests."""
    return torch.from_numpy(np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape, np.float32))


def head(kind: str, cognition: int):
    """The original action model, filled."""
    from action_model.action_model import ActionModel

    model = ActionModel(cognition, kind, ACTIONS, CHUNK - 1, 0).eval()
    model.load_state_dict(fill({name: tuple(value.shape) for name, value in model.state_dict().items()}))
    return model


@torch.no_grad()
def answers(model, batch: int) -> dict[str, torch.Tensor]:
    """Noise at some times, alone and guided, then what sampling with guidance ends in."""
    noise, cognition = drawn("noise", batch, CHUNK, ACTIONS), drawn("cognition", batch, 1, COGNITION)
    both = torch.cat([cognition, model.net.z_embedder.uncondition[None].expand(batch, 1, -1)])
    found = {}
    for time in TIMES:
        at = torch.full((batch,), time)
        found[f"noise_{time}"] = model.net(noise, at, cognition)
        found[f"guided_{time}"] = model.net.forward_with_cfg(noise.repeat(2, 1, 1), at.repeat(2), both, GUIDANCE)[
            :batch
        ]
        found[f"noisy_{time}"] = model.diffusion.q_sample(drawn("clean", batch, CHUNK, ACTIONS), at, noise)
    start = noise.repeat(2, 1, 1)
    arguments = {"clip_denoised": False, "progress": False, "device": "cpu", "eta": 0.0}
    guided = {"z": both, "cfg_scale": GUIDANCE}
    found["sample"] = model.create_ddim(SAMPLING_STEPS).ddim_sample_loop(
        model.net.forward_with_cfg, start.shape, start, model_kwargs=guided, **arguments
    )[:batch]
    found["sample_unguided"] = model.ddim_diffusion.ddim_sample_loop(
        model.net.forward, noise.shape, noise, model_kwargs={"z": cognition}, **arguments
    )
    return found


@torch.no_grad()
def loss(model) -> float:
    """The original training loss without its own draws: the network's answer at fixed times and noise, no condition
    dropped."""
    noise, cognition, clean = (
        drawn("noise", 2, CHUNK, ACTIONS),
        drawn("cognition", 2, 1, COGNITION),
        drawn("clean", 2, CHUNK, ACTIONS),
    )
    time = torch.tensor(TIMES[:2])
    return float(((model.net(model.diffusion.q_sample(clean, time, noise), time, cognition) - noise) ** 2).mean())


def shapes(kind: str) -> dict[str, list[int]]:
    """Names and shapes in a published checkpoint with this head."""
    from action_model.action_model import ActionModel

    with torch.device("meta"):
        model = ActionModel(4096, kind, ACTIONS, CHUNK - 1, 0)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def pretend_torchvision_has_operators() -> None:
    """timm imports torchvision, whose compiled part does not load beside a CPU build of torch; nothing calls it."""
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True, help="of the CogACT repository, written beside the answers")
    arguments = parser.parse_args()
    pretend_torchvision_has_operators()
    import timm

    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    small = head("DiT-S", COGNITION)
    found = answers(small, 2) | {"loss": torch.tensor(loss(small))}
    np.savez_compressed(arguments.out / "dit_s.npz", **{name: value.numpy() for name, value in found.items()})
    middle = answers(head("DiT-B", COGNITION), 1)
    np.savez_compressed(arguments.out / "dit_b.npz", **{name: value.numpy() for name, value in middle.items()})
    body = {
        "versions": {"CogACT": arguments.commit, "torch": torch.__version__, "timm": timm.__version__},
        "shapes": {kind: shapes(kind) for kind in ("DiT-S", "DiT-B", "DiT-L")},
        "betas_steps": small.diffusion.num_timesteps,
        "sampling_times": small.ddim_diffusion.timestep_map,
    }
    (arguments.out / "heads.json").write_text(json.dumps(body) + "\n")


if __name__ == "__main__":
    main()
