"""Distillation by two processes: the steps of one, whoever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distill_parts import parse, random_data, random_teacher
from safetensors.torch import load_file

from actdistill_ros.distill import command
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.ownership import owned
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.teacher import Teacher
from actdistill_ros.policy import checkpoint

STEPS, KILL_AFTER = 30, 4
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
PLAIN = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    small = ["--steps", STEPS, "--probe-steps", 4, "--batch", 8, "--threads", 1, "--save-every", 2]
    given = ["--teacher", random_teacher(folder / "teacher"), "--data", random_data(folder / "set")]
    return [*given, "--budget", 0.75, *small, "--eval-episodes", 0]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("students") / "alone"
    assert command.run(parse(*words, "--out", out)) == 0
    return out


def launch(words: list, out: Path, *more: str) -> subprocess.Popen:
    call = [sys.executable, *LAUNCH, *PLAIN, "-m", "actdistill_ros.cli", "distill", *map(str, words), "--out", str(out)]
    # No accelerator, and no network but the machine's own.
    env = {**os.environ, "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*call, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def state(out: Path, name: str = "student") -> dict:
    return torch.load(out.with_name(f"{out.name}.training") / f"{name}.pt", weights_only=True)


def assert_same(one: Path, other: Path) -> None:
    """The same curve and weights within rounding, which other orders of addition leave."""
    for name in ("probing", "student"):
        curves = [state(out, name)["curve"] for out in (one, other)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-3, abs=1e-5), name
    first, second = (load_file(out / checkpoint.WEIGHTS) for out in (one, other))
    apart = {key: (first[key] - second[key]).abs().max().item() for key in first if first[key].is_floating_point()}
    assert max(apart.values()) < 1e-3, apart


def test_two_processes_take_the_steps_of_one_and_only_the_main_one_writes_and_speaks(words, alone, tmp_path):
    out = tmp_path / "two"
    said, _ = (process := launch(words, out)).communicate(timeout=600)
    assert process.returncode == 0, said
    assert_same(alone, out)
    assert said.count("memory") == 1 and said.count(f"student {STEPS}/{STEPS}") == 1, said
    lines = (out.with_name("two.training") / "student.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [STEPS]


def test_a_run_of_two_that_split_the_layers_goes_on_along_the_same_curve_when_one_was_killed(words, alone, tmp_path):
    out = tmp_path / "killed"
    process, deadline = launch(words, out, "--split"), time.monotonic() + 600
    while not (out.with_name("killed.training") / "student.pt").exists() or state(out)["step"] < KILL_AFTER:
        assert process.poll() is None and time.monotonic() < deadline, "it was to be killed in the middle of stage 2"
    os.kill(worker(process, rank=1), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0, said
    assert not (out / checkpoint.WEIGHTS).exists(), "it was to be killed before its end"
    again = launch(words, out, "--split", "--checkpointing")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and "student: goes on at step" in said, said
    assert_same(alone, out)
    assert command.run(parse(*words, "--out", out)) == 0, "one process reads what two that split have written"
    assert_same(alone, out)


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """The process id of one that the launcher started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    return next(int(pid) for pid, env in ranks.items() if f"RANK={rank}".encode() in env)


# -- without a second process
def test_layers_are_not_split_by_one_process(words, tmp_path):
    with pytest.raises(DistillError, match="--split needs several processes"):
        command.run(parse(*words, "--out", tmp_path / "x", "--split"))


def test_a_batch_that_processes_cannot_split_evenly_is_refused():
    assert Processes(2, 1).share(8) == slice(4, 8)
    with pytest.raises(DistillError, match="batch 8 cannot be split evenly over 3 processes"):
        Processes(3, 0).share(8)


def test_shares_of_a_batch_are_its_rows(words):
    teacher = Teacher(words[1], [words[3]], "float32")
    whole = teacher.batcher.train(5, 2, 8)
    for index in range(2):
        rows = Processes(2, index).share(8)
        share = teacher.batcher.train(5, 2, 8, rows)
        for name in ("instruction", "state", "pose_known", "chunk"):
            assert torch.equal(getattr(share, name), getattr(whole, name)[rows]), name
        assert all(torch.equal(share.images[name], whole.images[name][rows]) for name in whole.images)


def test_a_folder_of_training_has_one_run_at_a_time(words, alone):
    work = alone.with_name("alone.training")
    with owned(work), pytest.raises(DistillError, match=f"is at work in process {os.getpid()}; wait for it"):
        command.run(parse(*words, "--out", alone))
    with owned(work):
        pass
