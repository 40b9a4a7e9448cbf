"""The depth bench measures both ways in turns, prints ratios and refuses what cannot be run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from vla_parts import hf_folder  # noqa: F401

from actdistill_ros.bench import depth, engines, shapes
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy.engine import TorchEngine
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.policy.vla import weights
from actdistill_ros.policy.vla.openvla import PrismaticShape, unfilled
from actdistill_ros.policy.vla.weights import held_as

BUNDLED = Path(__file__).resolve().parents[1] / "models/tabletop-student"


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    depth.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def measured(tmp_path: Path, *words: object) -> dict:
    out = tmp_path / "depth.json"
    given = ("--shape", "tiny", "--seconds", 0.05, "--threads", 1, "--json", out, *words)
    assert depth.run(parse(*given)) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "int4"])
def test_a_shape_is_measured_with_and_without_its_skipped_layers(tmp_path, capsys, dtype):
    body = measured(tmp_path, "--layers", 2, "--dtype", dtype)
    assert (body["shape"], body["dtype"], body["layers_total"], body["layers_executed"]) == ("tiny", dtype, 4, 2)
    assert body["ratio"] == pytest.approx(body["decoder_ms_plan"] / body["decoder_ms_full"])
    assert 0 < body["router_share"] < 1 and body["threads"] == 1 and body["device"]
    assert "2.00 of 4 layers take" in capsys.readouterr().out and "decode_ratio" not in body


def test_words_after_the_prompt_are_measured_alone_and_with_it(tmp_path, capsys):
    body = measured(tmp_path, "--decode", 3, "--depth", 6)
    assert (body["decode_tokens"], body["layers_total"], body["layers_executed"]) == (3, 6, 3)
    for what in ("decode", "words"):
        assert body[f"{what}_ratio"] == pytest.approx(body[f"{what}_ms_plan"] / body[f"{what}_ms_full"])
        assert body[f"{what}_ms_full"] > 0
    assert "3 words after the prompt: " in capsys.readouterr().out


def test_a_captured_plan_is_measured_beside_itself_uncaptured(tmp_path, capsys):
    body = measured(tmp_path, "--capture", "export")
    assert body["capture_difference"] < 1e-6 and body["capture_ratio"] > 0
    assert body["capture_ratio"] == pytest.approx(body["captured_ms"] / body["uncaptured_ms"])
    assert "captured (export): " in capsys.readouterr().out


def test_published_shapes_are_openvlas_and_cogacts():
    """7 billion weights on the meta device take no memory."""
    for name, decoder in (("openvla-7b", 6_738_939_904), ("cogact-base", 6_476_271_616 + 2 * 4096)):
        shape = shapes.SHAPES[name]
        model = unfilled(PrismaticShape(decoder=shape.decoder, rows=max(shape.rows, 1)))
        parts = (model.vlm.decoder, model.vlm.embed, model.lm_head)
        assert sum(p.numel() for part in parts for p in part.parameters()) == decoder
    assert (shapes.SHAPES["openvla-7b"].words, shapes.SHAPES["cogact-base"].head) == (7, "DiT-B")


@pytest.mark.parametrize("engine", ["best", "all"])
def test_a_published_model_is_not_timed_as_a_checkpoint_and_the_shape_that_is_gets_named(hf_folder, engine):  # noqa: F811
    with pytest.raises(ContractError, match="is a published model.*--shape openvla-7b or --shape cogact-base"):
        depth.run(parse("--checkpoint", hf_folder, "--engine", engine, "--threads", torch.get_num_threads()))
    assert {"openvla-7b", "cogact-base"} <= set(shapes.SHAPES)


def test_a_plan_has_first_and_last_layer_and_as_many_as_were_asked_for():
    for executed in range(2, 33):
        plan = shapes.Asked(shapes.SHAPES["openvla-7b"], "bf16", "cpu", executed, 0, None, 1.0).plan
        assert len(plan) == 32 and sum(plan) == executed and plan[0] and plan[-1]


def test_words_are_said_after_the_same_prompt_each_time():
    model = shapes.random_model(shapes.SHAPES["tiny"], held_as("float32"), "cpu")
    tokens, decoded = torch.randn(1, 12, 32), []
    decode, model.vlm.decoder.decode = model.vlm.decoder.decode, lambda *a: decoded.append(decode(*a)) or decoded[-1]
    with torch.inference_mode():
        say = shapes._decode(model, tokens, (True,) * 4, 3)
        say(), say()
    assert len(decoded) == 6 and all(torch.equal(a, b) for a, b in zip(decoded[:3], decoded[3:], strict=True))


def test_ways_are_measured_in_turns_and_a_device_is_waited_for():
    called = []
    ways = (lambda: called.append("a"), lambda: called.append("b"))
    times = shapes.side_by_side(ways, seconds=0.0, wait=lambda: called.append("."))
    assert "".join(called) == "ab" + ".a..b." * 3 and len(times) == 2


@pytest.mark.parametrize("layers", [1, 5])
def test_a_plan_without_room_for_first_and_last_layer_is_refused(layers):
    with pytest.raises(ContractError, match="is not in 2 … 4"):
        depth.run(parse("--shape", "tiny", "--layers", layers))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--shape", "cogact-base", "--decode", 7), "says no words; leave --decode 7 out"),
        (("--shape", "tiny", "--capture", "cuda-graph"), "needs --device cuda; the CPU has export and compile"),
        (("--checkpoint", BUNDLED, "--dtype", "int8"), "leave --dtype, --device and --capture out"),
        (("--shape", "tiny", "--device", "cuda", "--dtype", "int4"), "finds no GPU|int4 weights run on the CPU only"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, reason):
    with pytest.raises(ContractError, match=reason):
        depth.run(parse(*words, "--threads", torch.get_num_threads()))


def test_too_little_memory_is_said_before_any_is_taken(monkeypatch):
    monkeypatch.setattr(weights, "free_bytes", lambda device: 8 << 30)
    with pytest.raises(ContractError, match=r"the weights take 13\.2 GiB as bfloat16, cpu has 8\.0 GiB free"):
        depth.run(parse("--shape", "openvla-7b", "--dtype", "bf16", "--threads", torch.get_num_threads()))


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
    ways = {"torch", "torch, a captured graph per plan", "onnxruntime", "onnxruntime, a graph per plan"}
    assert ways <= found["engines"].keys()
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
