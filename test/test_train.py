"""From expert to checkpoint in small: record, train, be killed, resume, evaluate."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_parts import random_data
from policy_parts import tiny_checkpoint
from safetensors.torch import load_file
from vla_parts import hf_folder  # noqa: F401

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.seeds import EVALUATION_SEED
from actdistill_ros.data import collect
from actdistill_ros.data.reader import DataError, Dataset
from actdistill_ros.policy import checkpoint, train
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.losses import gripper_loss
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.trials import evaluate

STEPS, KILL_AFTER = 12, 2


def parse(module, *words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "expert"
    assert collect.run(parse(collect, "--out", folder, "--episodes", 4, "--workers", 1, "--seed", 40)) == 0
    return folder


@pytest.fixture(scope="module")
def train_words(data):
    return ["--data", data, "--steps", STEPS, "--batch", 4, "--threads", 1, "--save-every", 2, "--warmup", 2]


@pytest.fixture(scope="module")
def trained(train_words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    assert train.run(parse(train, *train_words, "--out", folder)) == 0
    return folder


def test_a_recording_has_chunks_from_every_state_and_is_continued_not_repeated(data, capsys):
    recorded = Dataset.open(data)
    assert recorded.columns("chunk").shape == (len(recorded), 8, 7)
    assert recorded.columns("action") == pytest.approx(recorded.columns("chunk")[:, 0], abs=0.1)
    assert collect.run(parse(collect, "--out", data, "--episodes", 4, "--workers", 1, "--seed", 40)) == 0
    assert "4 episodes are there, 0 to record" in capsys.readouterr().out
    assert len(Dataset.open(data)) == len(recorded)


def test_a_recording_that_was_killed_before_its_index_is_mended_by_the_same_command(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "killed")
    info = folder / "meta" / "info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "total_episodes": 0, "total_frames": 0}))
    with pytest.raises(DataError, match="repeat its `actdistill collect`"):
        Dataset.open(folder)
    assert collect.run(parse(collect, "--out", folder, "--episodes", 4, "--workers", 1, "--seed", 40)) == 0
    assert len(Dataset.open(folder)) == len(Dataset.open(data))


def test_evaluation_seeds_are_never_recorded(tmp_path, capsys):
    words = ("--out", tmp_path / "x", "--episodes", 10, "--seed", EVALUATION_SEED - 5)
    assert collect.run(parse(collect, *words)) == 2
    assert "evaluation seeds" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_policy_that_is_no_checkpoint_is_refused_before_anything_is_recorded(tmp_path):
    with pytest.raises(ContractError, match="has no config.json; expected a checkpoint folder"):
        collect.run(parse(collect, "--out", tmp_path / "x", "--episodes", 1, "--policy", tmp_path))
    assert not (tmp_path / "x").exists()


def test_a_policy_that_cannot_act_is_refused_before_anything_is_recorded(hf_folder, tmp_path):  # noqa: F811
    def collected_by(policy):
        collect.run(parse(collect, "--out", tmp_path / "x", "--episodes", 1, "--policy", policy))

    with pytest.raises(ContractError, match="--policy .* is a published model, expected a policy of this package"):
        collected_by(hf_folder)
    (unfinished := tiny_checkpoint(tmp_path / "unfinished")).joinpath("model.safetensors").unlink()
    with pytest.raises(ContractError, match="has no model.safetensors"):
        collected_by(unfinished)
    assert not (tmp_path / "x").exists()


def test_evaluation_seeds_are_never_trained_on(tmp_path):
    data = random_data(tmp_path / "judging", episodes=2, first_seed=EVALUATION_SEED)
    with pytest.raises(DataError, match="2 of 2 episodes with evaluation seeds"):
        train.run(parse(train, "--data", data, "--out", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_workers_end_with_the_command_that_started_them_even_if_it_is_killed(tmp_path):
    words = ["collect", "--out", str(tmp_path / "d"), "--episodes", "500", "--workers", "1", "--suite", "tabletop"]
    process = subprocess.Popen([sys.executable, "-m", "actdistill_ros.cli", *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (started := list((tmp_path / "d").glob("**/*"))):
        assert process.poll() is None and time.monotonic() < deadline, "recording did not begin"
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert started and workers
    process.kill()
    process.wait()
    while left := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, f"{left} go on for nobody"
        time.sleep(0.02)


def _runs(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it is reaped while its file is read
        return False


def test_training_killed_at_any_moment_ends_with_the_same_weights_and_curve(
    train_words, trained, tmp_path, monkeypatch
):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "actdistill_ros.cli", "train", *map(str, train_words), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    state, deadline = folder / train.STATE_FILE, time.monotonic() + 300
    while not (state.exists() and torch.load(state, weights_only=True)["step"] >= KILL_AFTER):
        assert process.poll() is None and time.monotonic() < deadline, (
            "training did not get as far as it was to be killed"
        )
    process.kill()
    process.wait()
    assert not (folder / checkpoint.WEIGHTS).exists(), "it was to be killed before its end"
    assert train.run(parse(train, *train_words, "--out", folder)) == 0
    whole, resumed = load_file(trained / checkpoint.WEIGHTS), load_file(folder / checkpoint.WEIGHTS)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    curves = [torch.load(f / train.STATE_FILE, weights_only=True)["curve"] for f in (trained, folder)]
    assert curves[0] == curves[1]


def test_a_run_with_other_settings_is_not_resumed(train_words, trained):
    words = [*train_words, "--learning-rate", 0.1, "--out", trained]
    with pytest.raises(train.TrainingError, match="repeat them, or give another --out"):
        train.run(parse(train, *words))


def test_lines_of_the_curve_after_the_resumed_step_are_forgotten(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (50, 100, 150)))
    train._forget_after(path, 100)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [50, 100]


def test_a_trained_checkpoint_carries_its_contract_and_evaluates(trained, tmp_path, capsys):
    contract = PolicyRuntime.load(trained).contract
    assert [camera.name for camera in contract.cameras] == list(PolicyConfig(()).cameras)
    assert contract.active_statistics.samples > 0 and contract.instructions
    out = tmp_path / "eval.json"
    words = ("--checkpoint", trained, "--episodes", 2, "--task", "lift", "--workers", 1, "--seed", 50, "--json", out)
    assert evaluate.run(parse(evaluate, *words)) == 0
    body = json.loads(out.read_text())
    assert {
        "success_rate",
        "ci95",
        "tasks",
        "mean_steps",
        "budget",
        "decoder_flops_share",
        "layers_executed_mean",
    } <= body.keys()
    assert body["episodes"] == len(body["outcomes"]) == 2 and body["decoder_flops_share"] == 1.0
    assert body["step_ms"]["p95"] >= body["step_ms"]["p50"] > body["decoder_ms"]["p50"] > 0
    assert "95 % interval" in capsys.readouterr().out


def test_the_learning_rate_warms_up_and_ends_at_its_final_share():
    settings = train.Settings(("d",), 1000, 32, 1e-3, 100, 0, "", 0.1, "float32")
    assert train.learning_rate(settings, 0) == pytest.approx(1e-5)
    assert train.learning_rate(settings, 100) == pytest.approx(1e-3)
    assert train.learning_rate(settings, 1000) == pytest.approx(1e-4)


def test_the_gripper_loss_weighs_changes_more():
    logits, target = torch.zeros(2, 1), torch.tensor([[1.0], [1.0]])
    loss = gripper_loss(logits, target, opening=torch.tensor([1.0, 0.4]))
    assert loss[0, 0] == pytest.approx(np.log(2), rel=1e-5)
    assert loss[1, 0] == pytest.approx(5 * np.log(2), rel=1e-5)
