"""What a distillation costs is known before it starts, and what does not fit is refused; less memory, same curve."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_parts import LAYERS, random_data, random_teacher

from actdistill_ros.distill import command, depth, estimate
from actdistill_ros.distill.estimate import GIB, Cost, smallest_batch
from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.memory import Meter
from actdistill_ros.distill.probing import Probing, ProbingSettings
from actdistill_ros.distill.student import Student, StudentSettings
from actdistill_ros.distill.teacher import Teacher

HEADS = HeadConfig(bottleneck=8, semantic=6, neighbours=2)
SMALL = StudentSettings(budget=0.75, steps=20, batch=16, warmup=2)
ENOUGH = Cost(GIB, 2 * GIB, GIB, 2 * GIB, 60.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cost")
    return random_teacher(folder / "teacher"), random_data(folder / "set")


def teacher_of(folders, **more) -> Teacher:
    return Teacher(folders[0], [folders[1]], more.pop("dtype", "float32"), **more)


def stages(teacher: Teacher, settings: StudentSettings = SMALL) -> tuple[Probing, Student]:
    probing = Probing(teacher, HEADS, ProbingSettings(steps=20, batch=settings.batch))
    return probing, Student("student", teacher, probing.heads, depth.places([2, 1], LAYERS), settings)


def run(folders, out: Path, *more: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    small = ["--budget", 0.75, "--steps", 2, "--probe-steps", 2, "--batch", 8, "--threads", 1, "--eval-episodes", 0]
    words = ["--teacher", folders[0], "--data", folders[1], "--out", out, *small, *more]
    return command.run(parser.parse_args([str(word) for word in words]))


# -- gradient checkpointing
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpointing_changes_no_step_of_either_stage(folders, dtype):
    plain, less = (teacher_of(folders, dtype=dtype, checkpointing=on) for on in (False, True))
    for first, second in zip(stages(plain), stages(less), strict=True):
        for parameter in (*first.heads.parameters(), *second.heads.parameters()):
            parameter.requires_grad_(True)
        for _ in range(3):
            assert first.update() == pytest.approx(second.update(), rel=1e-5)


def test_checkpointing_keeps_less_for_the_backward_pass(folders):
    kept = [_kept(teacher_of(folders, checkpointing=on)) for on in (False, True)]
    assert kept[1] < 0.5 * kept[0]


def _kept(teacher: Teacher) -> int:
    """Bytes that a step of the student keeps between forward and backward pass, weights left out."""
    student = stages(teacher)[1]
    weights = {p.untyped_storage().data_ptr() for m in (student.model, student.heads) for p in m.parameters()}
    found: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        student.update()
    return sum(found.values())


# -- what it costs
def test_a_dry_run_says_what_each_of_several_processes_needs():
    assert str(ENOUGH) == "memory 1.0 of 2.0 GiB, disk 1.00 of 2.0 GiB, training about 1 min"
    assert "memory 1.0 of 2.0 GiB in each of 4 processes" in str(replace(ENOUGH, processes=4))


def test_the_estimate_of_memory_grows_with_the_batch(folders):
    teacher, place = teacher_of(folders), torch.linspace(0, 1, LAYERS)
    needed = {}
    for batch in (16, 160):
        heads = Probing(teacher, HEADS, ProbingSettings(batch=batch)).heads
        needed[batch], there = estimate._memory(teacher, heads, place, replace(SMALL, batch=batch))
        assert needed[batch] < there
    assert needed[160] > needed[16]


@pytest.mark.parametrize(("groups", "batch", "processes", "least"), [(4, 64, 1, 8), (4, 64, 3, 12), (4, 8, 1, 8)])
def test_the_batch_that_memory_is_measured_on_can_be_shared(groups, batch, processes, least):
    assert smallest_batch(StudentSettings(batch=batch, groups=groups), processes) == least


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"memory": 3 * GIB}, "about 3.0 GiB of memory are needed and 2.0 GiB are there"),
        ({"memory": 3 * GIB, "processes": 2}, "memory in each of 2 processes are needed"),
        ({"disk": 3 * GIB}, "about 3.0 GiB of disk space are needed and 2.0 GiB are there"),
    ],
)
def test_too_little_memory_or_disk_is_refused(change, reason):
    ENOUGH.check()
    with pytest.raises(DistillError, match=reason):
        replace(ENOUGH, **change).check()


def test_a_run_that_does_not_fit_is_refused_before_its_teacher_is_loaded(folders, tmp_path, monkeypatch):
    size = (folders[0] / "model.safetensors").stat().st_size
    monkeypatch.setattr(Meter, "free", lambda self: 5 * size)
    monkeypatch.setattr(command, "Teacher", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(DistillError, match="of memory are needed"):
        run(folders, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_run_whose_batch_does_not_fit_is_refused_before_it_starts(folders, tmp_path, monkeypatch):
    free = iter([2**40, 0])  # enough for the weights, too little for the batch
    monkeypatch.setattr(Meter, "free", lambda self: next(free))
    monkeypatch.setattr(estimate, "_second_of_two", lambda _: pytest.fail("the whole batch was tried"))
    with pytest.raises(DistillError, match="of memory are needed"):
        run(folders, tmp_path / "x")
    assert not list(tmp_path.iterdir())


# -- where it computes
def test_everything_of_a_step_is_on_the_teachers_device(folders):
    """Tensors on `meta` have no values but cannot meet others: what is left on the CPU is found without a GPU."""
    teacher = teacher_of(folders)
    _, student = stages(teacher)
    batch = teacher.batch(0, 0, SMALL.batch).to("meta")
    batch = replace(batch, aux=torch.full(batch.aux.shape, torch.nan))  # which places are told is asked of their values
    given = teacher.give(teacher.batch(0, 0, SMALL.batch))
    given = replace(given, tokens=given.tokens.to("meta"), present=given.present.to("meta"), seen=given.seen.to("meta"))
    for module in (teacher.model, student.model, student.heads, student._fixed):
        module.to("meta")
    teacher.device = torch.device("meta")
    teacher.precision = nullcontext
    gates, terms = student._gates(given, np.random.default_rng(0))
    terms |= student._terms(batch, given, gates)
    assert {term.device.type for term in terms.values()} == {"meta"} and len(terms) == 6
