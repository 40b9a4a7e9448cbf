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


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory) -> Path:
    """OpenVLA's Hugging Face layout, tiny, float32."""
    torch.set_num_threads(1)
    return maker.write_folder(tmp_path_factory.mktemp("vla") / "openvla-tiny", TINY)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A Prismatic run of the same weights."""
    return maker.write_run(tmp_path_factory.mktemp("vla") / "run-tiny", TINY)
