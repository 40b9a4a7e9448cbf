"""What a distillation will cost, before it starts: memory, disk, time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.memory import Meter
from actdistill_ros.distill.probing import Probing, ProbingSettings
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.student import Student, StudentSettings
from actdistill_ros.distill.teacher import Teacher
from actdistill_ros.policy import checkpoint

GIB = 1024**3
MARGIN = 1.2  # a whole batch was measured to take an eighth more than a quarter of it promises
NUMBER = 4  # bytes of a weight; the matrix products alone are narrower with --dtype bfloat16


@dataclass(frozen=True)
class Cost:
    """memory, disk: bytes needed and there, memory of each process; seconds: of training, without the evaluation."""

    memory: int
    memory_there: int
    disk: int
    disk_there: int
    seconds: float
    processes: int = 1

    def check(self) -> None:
        """Raises DistillError if memory or disk will not do."""
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        for what, needed, there in (
            (f"memory{each}", self.memory, self.memory_there),
            ("disk space", self.disk, self.disk_there),
        ):
            if needed > there:
                raise DistillError(
                    f"about {needed / GIB:.1f} GiB of {what} are needed and {there / GIB:.1f} GiB are there; "
                    "make room, lower --batch, or give --checkpointing."
                )

    def __str__(self) -> str:
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        return (
            f"memory {self.memory / GIB:.1f} of {self.memory_there / GIB:.1f} GiB{each}, disk {self.disk / GIB:.2f} of "
            f"{self.disk_there / GIB:.1f} GiB, training about {self.seconds / 60:.0f} min"
        )


def check_weights(teacher: Path, target: Path, processes: Processes) -> None:
    """Raises DistillError if memory or disk cannot even hold the weights: before anything is loaded.

    The teacher's weights, and the student's with gradients, two moments and average: six times what the file has, of
    which four are saved. Where they are split, one is whole while it is.
    """
    path = teacher / checkpoint.WEIGHTS
    if path.is_file():
        size = path.stat().st_size
        there = Meter(processes.device).free() // sharers(processes)
        needed = size + 6 * size // processes.count if processes.split else 6 * size
        Cost(needed, there, 2 * 4 * size, disk_free(target), 0.0, processes.count).check()


def of(
    teacher: Teacher,
    settings: StudentSettings,
    heads: HeadConfig,
    probe_steps: int,
    control_names: Sequence[str],
    target: Path,
) -> Cost:
    """Measured with throw-away weights: memory on a batch as small as can be, so that it is known before it is too
    little; time on two steps of each stage, so it holds for this machine as it is now. Without time, the cost is
    checked, and DistillError raised, before the whole batch is tried."""
    place = torch.linspace(0, 1, teacher.model.config.layers)
    probing = Probing(teacher, heads, ProbingSettings(batch=settings.batch))
    memory = _memory(teacher, deepcopy(probing.heads), place, settings)  # a student freezes what it is given
    trained = 1 + len([name for name in control_names if name != "random"])
    there = min(teacher.processes.every(memory[1]))
    cost = Cost(
        memory=max(teacher.processes.every(memory[0])),
        memory_there=there,
        disk=2 * trained * _saved(teacher, probing.heads),
        disk_there=teacher.processes.every(disk_free(target))[0],
        seconds=0.0,
        processes=teacher.processes.count,
    )
    cost.check()
    probe_s = _second_of_two(probing)
    step_s = _second_of_two(Student("estimate", teacher, probing.heads, place, settings))
    probings = 1 + ("no-graph" in control_names)
    return replace(cost, seconds=probings * probe_steps * probe_s + trained * settings.steps * step_s)


def _memory(teacher: Teacher, heads: nn.Module, place: torch.Tensor, settings: StudentSettings) -> tuple[int, int]:
    """Bytes that this process needs and bytes that it may have, what it has already included in both."""
    meter, processes = Meter(teacher.device), teacher.processes
    small = smallest_batch(settings, processes.count)
    student = Student("estimate", teacher, heads, place, replace(settings, batch=small))
    student.update()  # the first one also makes the moments
    before = meter.start()
    student.update()
    # Gradients are there before and after; what a step adds on top grows with the batch.
    added = meter.peak() - before
    return before + int(MARGIN * added * settings.batch / small), before + meter.free() // sharers(processes)


def smallest_batch(settings: StudentSettings, processes: int) -> int:
    """The least that the settings' groups and the processes can share evenly, but no more than the settings' own."""
    unit = math.lcm(settings.groups, processes)
    return min(settings.batch, unit * math.ceil(2 * settings.groups / unit))


def _saved(teacher: Teacher, heads: nn.Module) -> int:
    """Bytes of a saved state: weights, average, two moments."""
    return 4 * NUMBER * sum(p.numel() for model in (teacher.model, heads) for p in model.parameters())


def sharers(processes: Processes) -> int:
    """How many processes share one memory: a card has one process, a machine may have several."""
    return processes.beside if processes.device.type == "cpu" else 1


def _second_of_two(stage: Probing | Student) -> float:
    """Seconds of an update; the first one also warms up."""
    stage.update()
    start = time.perf_counter()
    stage.update()
    return time.perf_counter() - start


def disk_free(path: Path) -> int:
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free
