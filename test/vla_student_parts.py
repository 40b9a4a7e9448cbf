"""Students of tiny VLAs, and what spoils them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vla_parts import deployed, hf_folder, linked_copy, listening_router, tool  # noqa: F401

from actdistill_ros.policy.vla import checkpoint, student_folder
from actdistill_ros.policy.vla.router import VlaRouter

LAYERS, WIDTH, PATCHES = 4, 64, 256
UP, HEAD = "vlm.decoder.layers.2.mlp.up_proj.weight", "head.blocks.1.mlp.fc1.bias"


@pytest.fixture(scope="module")
def openvla(hf_folder, tmp_path_factory) -> Path:  # noqa: F811
    return deployed(hf_folder, tmp_path_factory.mktemp("teachers") / "openvla")


@pytest.fixture(scope="module")
def cogact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    return deployed(tool("reference_cogact_vla").write_checkpoint(folder / "run"), folder / "cogact")


@pytest.fixture(scope="module")
def router(openvla) -> VlaRouter:
    return listening_router(checkpoint.load(openvla, dtype="float32"))


@pytest.fixture(scope="module")
def made(openvla, router, tmp_path_factory) -> Path:
    """A student of OpenVLA's; `student` is a copy that a test may spoil."""
    out = tmp_path_factory.mktemp("students") / "student"
    student_folder.save(out, openvla, {UP: torch.randn(96, WIDTH)}, router, 0.75)
    return out


@pytest.fixture
def student(made, tmp_path) -> Path:
    return linked_copy(made, tmp_path / "student")


def spoil(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of the router, or take them out."""
    tensors = load_file(folder / "router.safetensors") | changes
    (folder / "router.safetensors").unlink()
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "router.safetensors")
