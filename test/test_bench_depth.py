"""The depth bench measures both ways in turns, prints ratios and refuses what cannot be run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actdistill_ros.bench import depth, engines
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy.engine import TorchEngine
from actdistill_ros.policy.runtime import PolicyRuntime

BUNDLED = Path(__file__).resolve().parents[1] / "models/tabletop-student"


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    depth.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_shape_is_measured_with_and_without_its_skipped_layers(tmp_path, capsys, dtype):
    out = tmp_path / "depth.json"
    words = ("--shape", "tiny", "--layers", 2, "--dtype", dtype, "--seconds", 0.2, "--threads", 1, "--json", out)
    assert depth.run(parse(*words)) == 0
    body = json.loads(out.read_text())
    assert (body["shape"], body["dtype"], body["layers_total"], body["layers_executed"]) == ("tiny", dtype, 4, 2)
    assert body["ratio"] == pytest.approx(body["decoder_ms_plan"] / body["decoder_ms_full"])
    assert 0 < body["router_share"] < 1 and body["threads"] == 1 and body["device"]
    assert "2.00 of 4 layers take" in capsys.readouterr().out


def test_a_decoder_made_in_place_computes_what_one_made_the_usual_way_computes():
    shape = depth.SHAPES["tiny"]
    made = depth.random_decoder(shape, torch.float32)
    usual = depth.RoutedDecoder(shape.width, shape.heads, shape.feed_forward, shape.layers).eval()
    usual.load_state_dict(made.state_dict())
    tokens, present = torch.randn(1, 6, shape.width), torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(made(tokens, present), usual(tokens, present), atol=1e-6)


def test_ways_are_measured_in_turns():
    called = []
    times = depth.side_by_side((lambda: called.append("a"), lambda: called.append("b")), seconds=0.0)
    assert called == ["a", "b"] * 4 and len(times) == 2


@pytest.mark.parametrize("layers", [1, 5])
def test_a_plan_without_room_for_first_and_last_layer_is_refused(layers):
    with pytest.raises(ContractError, match="is not in 2 … 4"):
        depth.run(parse("--shape", "tiny", "--layers", layers))


@pytest.fixture(scope="module")
def student():
    return PolicyRuntime.load(BUNDLED)


def frame(student: PolicyRuntime) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (192, 192, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return Observation(
        images, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, student.contract.instructions[0], 1.0
    )


def test_engines_are_compared_on_the_same_step_and_answer_alike(student, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)  # compiling takes a minute
    found = engines.compare(student, [frame(student)], seconds=0.0)
    assert {"torch", "onnxruntime", "onnxruntime, a graph per plan"} <= found["engines"].keys()
    assert found["missing"]["torch.compile"].startswith("needs g++")
    assert 2 <= found["layers_executed"] < found["layers_total"] == 12 and found["plan_frequency"] == 1.0
    for row in found["engines"].values():
        assert row["difference"] < 1e-4 and 0 < row["decoder_plan_ms"] <= row["decoder_plan_ms_p95"]
    assert "| onnxruntime | " in engines.table(found)


def test_what_the_router_adds_to_the_encoders_is_counted_as_the_router_s(student):
    assert 0.0 <= engines.evidence_ms(student, frame(student), rounds=5) < 100.0
    assert depth._evidence_ms(student.with_engine(TorchEngine(student.model)), frame(student)) == 0.0


def test_a_comparison_of_engines_without_a_checkpoint_says_what_to_name():
    with pytest.raises(ContractError, match="name a --checkpoint"):
        depth.run(parse("--shape", "tiny", "--engine", "all", "--threads", torch.get_num_threads()))
