"""Distillation by two processes: the steps of one, whoever is killed in between."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distill_parts import random_data, random_teacher
from safetensors.torch import load_file

from actdistill_ros.distill import command
from actdistill_ros.policy import checkpoint

STEPS, KILL_AFTER = 30, 8
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
PLAIN = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    small = ["--steps", STEPS, "--probe-steps", 4, "--batch", 8, "--threads", 1, "--save-every", 2]
    given = ["--teacher", random_teacher(folder / "teacher"), "--data", random_data(folder / "set")]
    return [*given, "--budget", 0.75, *small, "--eval-episodes", 0, "--controls", "static"]


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
    for name in ("probing", "student", "static"):
        curves = [state(out, name)["curve"] for out in (one, other)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-3, abs=1e-5), name
    first, second = (load_file(out / checkpoint.WEIGHTS) for out in (one, other))
    apart = {key: (first[key] - second[key]).abs().max().item() for key in first if first[key].is_floating_point()}
    assert max(apart.values()) < 1e-3, apart


def test_two_processes_take_the_steps_of_one_and_only_the_main_one_writes_and_speaks(words, alone, tmp_path):
    out = tmp_path / "two"
    said, _ = (process := launch(words, out)).communicate(timeout=300)
    assert process.returncode == 0, said
    assert_same(alone, out)
    assert said.count("memory") == 1 and said.count(f"student {STEPS}/{STEPS}") == 1, said
    lines = (out.with_name("two.training") / "student.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [STEPS]
