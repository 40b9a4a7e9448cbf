"""Teachers, data and the command's words that the tests of distilling a published model share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import vla_distill_parts as parts

from actdistill_ros.distill import depth
from actdistill_ros.distill.graph import HeadConfig, LayerHeads
from actdistill_ros.distill.student import StudentSettings
from actdistill_ros.distill.vla.student import VlaStudent
from actdistill_ros.distill.vla.teacher import VlaTeacher

STEPS = 7
SMALL = ["--budget", 0.75, "--batch", 8, "--probe-steps", 2, "--threads", 1, "--save-every", 1, "--rank", 4]
HEADS = HeadConfig(graph=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return parts.data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def openvla(tmp_path_factory) -> Path:
    return parts.teacher(tmp_path_factory.mktemp("openvla") / "teacher", "openvla")


@pytest.fixture(scope="module")
def cogact(tmp_path_factory) -> Path:
    return parts.teacher(tmp_path_factory.mktemp("cogact") / "teacher", "cogact")


@pytest.fixture(scope="module")
def words(openvla, data):
    return ["--teacher", openvla, "--data", data, "--steps", STEPS, *SMALL]


def student(teacher: VlaTeacher, rank: int = 4, **settings) -> VlaStudent:
    torch.manual_seed(0)
    shape = teacher.shape
    heads = LayerHeads(shape.layers, shape.width, shape.chunk, shape.action_dim, HEADS)
    told = StudentSettings(**{"budget": 0.75, "steps": 20, "batch": 8, "warmup": 2, **settings})
    return VlaStudent("student", teacher, heads, depth.places([2, 1], shape.layers), told, rank)
