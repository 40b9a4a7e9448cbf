"""A distilled VLA is written as its teacher is, with a router beside it, and runs what the router chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vla_parts import edit_json, hf_folder, linked_copy, run_folder, tool  # noqa: F401

from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, student_folder
from actdistill_ros.policy.vla.router import VlaRouter

LAYERS, WIDTH, PATCHES = 4, 64, 256
TOLD = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": "float32", "statistics": "bridge_orig"}


def deployed(folder: Path, to: Path) -> Path:
    copy = linked_copy(folder, to)
    (copy / "deployment.json").write_text(json.dumps(TOLD))
    return copy


@pytest.fixture(scope="module")
def openvla(hf_folder, tmp_path_factory) -> Path:  # noqa: F811
    return deployed(hf_folder, tmp_path_factory.mktemp("teachers") / "openvla")


@pytest.fixture(scope="module")
def cogact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    return deployed(tool("reference_cogact_vla").write_checkpoint(folder / "run"), folder / "cogact")


@pytest.fixture(scope="module")
def router() -> VlaRouter:
    """One that listens to its input, calibrated on random ones."""
    torch.manual_seed(0)
    made = VlaRouter(WIDTH, 8, LAYERS, PATCHES)
    torch.nn.init.normal_(made.gate.weight, std=1.0)
    with torch.no_grad():
        made.calibrate(made.evidence(torch.randn(50, 1 + PATCHES + 20, WIDTH)))
    return made.eval()


def test_what_was_trained_is_in_the_students_files_and_the_rest_is_the_teachers(openvla, router, tmp_path):
    name = "vlm.decoder.layers.2.mlp.up_proj.weight"
    new = torch.randn(96, WIDTH)
    student_folder.save(tmp_path / "student", openvla, {name: new}, router, 0.5)
    teacher, student = (checkpoint.load(f, dtype="float32").model for f in (openvla, tmp_path / "student"))
    was, now = dict(teacher.named_parameters()), dict(student.named_parameters())
    assert torch.equal(now.pop(name), new)
    assert all(torch.equal(value, was[key]) for key, value in now.items())


def test_a_cogact_student_has_its_own_head(cogact, router, tmp_path):
    name = "head.blocks.1.mlp.fc1.bias"
    student_folder.save(tmp_path / "student", cogact, {name: torch.ones(1536)}, router, 0.5)
    teacher, student = (cogact_checkpoint.load(f, dtype="float32").model for f in (cogact, tmp_path / "student"))
    was, now = dict(teacher.named_parameters()), dict(student.named_parameters())
    assert torch.equal(now.pop(name), torch.ones(1536))
    assert all(torch.equal(value, was[key]) for key, value in now.items())
