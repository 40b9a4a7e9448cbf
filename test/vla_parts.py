"""Random VLA checkpoints in the original file layouts, made once for all tests that only read them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from actdistill_ros.policy.budgets import SHARPNESS
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.router import VlaRouter

TOOLS = Path(__file__).parents[1] / "tools"
REFERENCE = Path(__file__).parent / "data" / "openvla_reference.npz"


def tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


maker = tool("make_vla_checkpoint")
TINY = maker.SIZES["tiny"]


def linked_copy(folder: Path, to: Path) -> Path:
    """The same checkpoint, whose files a test may replace (never write into: they are the original's)."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return to


def edit_json(path: Path, change) -> None:
    """change: takes the file's content and alters it in place, or returns a new one."""
    body = json.loads(path.read_text())
    body = change(body) or body
    path.unlink()
    path.write_text(json.dumps(body))


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


TOLD = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": "float32", "statistics": "bridge_orig"}


def deployed(folder: Path, to: Path, **more) -> Path:
    """A linked copy that a robot was told of."""
    copy = linked_copy(folder, to)
    (copy / "deployment.json").write_text(json.dumps(TOLD | more))
    return copy


def listening_router(loaded: VlaCheckpoint) -> VlaRouter:
    """A router of random weights to whom all layers are worth the same on average, so that the input decides;
    calibrated on what the decoder is given of `scene` 0 … 15."""
    torch.manual_seed(3)
    vlm = loaded.model.vlm
    router = VlaRouter(vlm.shape.decoder.width, 8, vlm.shape.decoder.layers, vlm.shape.dino.patches).eval()
    torch.nn.init.normal_(router.gate.weight, std=2.0)
    with torch.no_grad():
        evidence = torch.cat([router.evidence(given_to_decoder(loaded, seed)) for seed in range(16)])  # (16, L)
        router.place.copy_(0.5 + evidence.mean(0) / SHARPNESS)
        router.calibrate(evidence)
    return router


def given_to_decoder(loaded: VlaCheckpoint, seed: int) -> torch.Tensor:
    """(1, N, D) of a frame and an instruction that differ with the seed."""
    image, instruction = scene(seed)
    ids = torch.tensor([loaded.reader.action_prompt(instruction)])
    with torch.no_grad():
        return loaded.model.vlm.embed_inputs(loaded.vision.pixels(image), ids)


def scene(seed: int) -> tuple[np.ndarray, str]:
    """A frame of one colour each with some noise, and an instruction."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 200, 3) + rng.integers(0, 56, (48, 64, 3))
    return image.astype(np.uint8), ("lift the red block", "close the drawer", "push the blue block left")[seed % 3]


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory) -> Path:
    """OpenVLA's Hugging Face layout, tiny, float32."""
    torch.set_num_threads(1)
    return maker.write_folder(tmp_path_factory.mktemp("vla") / "openvla-tiny", TINY)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A Prismatic run of the same weights."""
    return maker.write_run(tmp_path_factory.mktemp("vla") / "run-tiny", TINY)
