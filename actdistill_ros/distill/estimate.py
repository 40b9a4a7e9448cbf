"""What a distillation will cost, before it starts: memory, disk, time."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.probing import Probing, ProbingSettings
from actdistill_ros.distill.student import Student, StudentSettings
from actdistill_ros.distill.teacher import Teacher

GIB = 1024**3


@dataclass(frozen=True)
class Cost:
    """memory, disk: bytes needed and there; seconds: of training, without the evaluation."""

    memory: int
    memory_there: int
    disk: int
    disk_there: int
    seconds: float

    def check(self) -> None:
        """Raises DistillError if memory or disk will not do."""
        for what, needed, there in (
            ("memory", self.memory, self.memory_there),
            ("disk space", self.disk, self.disk_there),
        ):
            if needed > there:
                raise DistillError(
                    f"about {needed / GIB:.1f} GiB of {what} are needed and {there / GIB:.1f} GiB are there; "
                    "make room, or lower --batch."
                )

    def __str__(self) -> str:
        return (
            f"memory {self.memory / GIB:.1f} of {self.memory_there / GIB:.1f} GiB, disk {self.disk / GIB:.2f} of "
            f"{self.disk_there / GIB:.1f} GiB, training about {self.seconds / 60:.0f} min"
        )


def of(
    teacher: Teacher,
    settings: StudentSettings,
    heads: HeadConfig,
    probe_steps: int,
    control_names: Sequence[str],
    target: Path,
) -> Cost:
    """Measured on one step of each stage with throw-away weights, so it holds for this machine as it is now."""
    place = torch.linspace(0, 1, teacher.model.config.layers)
    probing = Probing(teacher, heads, ProbingSettings(batch=settings.batch))
    probe_s = _second_of_two(probing)
    student = Student("estimate", teacher, probing.heads, place, settings)
    step_s = _second_of_two(student)
    trained = 1 + len([name for name in control_names if name != "random"])
    parameters = [*student.model.parameters(), *student.heads.parameters()]
    state = 4 * sum(p.numel() for p in parameters) * 4  # weights, average, two moments; float32
    probings = 1 + ("no-graph" in control_names)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost(
        memory=rss,
        memory_there=rss + _available(),
        disk=2 * trained * state,
        disk_there=shutil.disk_usage(_existing(target)).free,
        seconds=probings * probe_steps * probe_s + trained * settings.steps * step_s,
    )


def _second_of_two(stage: Probing | Student) -> float:
    """Seconds of an update; the first one also warms up."""
    stage.update()
    start = time.perf_counter()
    stage.update()
    return time.perf_counter() - start


def _available() -> int:
    """Bytes of memory that could be had now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.absolute().parent
    return path
