"""Frequent plans are captured once, within bounds, and answer as the model does; all others run as it is written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from vla_parts import frame, hf_folder, linked_copy, tool  # noqa: F401

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import loading
from actdistill_ros.policy.captured import Captured, CapturedRuns, CudaGraph, Exported, Key, Limits, by_name
from actdistill_ros.policy.decoder import DecoderShape
from actdistill_ros.policy.vla import cogact_checkpoint
from actdistill_ros.policy.vla.cogact_policy import CogACTSettings, make
from actdistill_ros.policy.vla.openvla import OpenVLA, PrismaticShape
from actdistill_ros.policy.vla.vision import TowerShape

WIDTH, LAYERS, WORDS = 32, 4, 3
FULL, PART, OTHER = (True,) * 4, (True, True, False, True), (True, False, True, True)
EVERY = list(itertools.product((True, False), repeat=LAYERS))
TWICE = Limits(after=2)
HERE = ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3))


@pytest.fixture(scope="module")
def model() -> OpenVLA:
    torch.manual_seed(0)
    tower = TowerShape(width=16, depth=2, heads=2, feed_forward=32)
    shape = PrismaticShape(tower, tower, DecoderShape(WIDTH, 2, 48, LAYERS, max_positions=64), rows=96)
    made = OpenVLA(shape).requires_grad_(False).eval()
    for layer in made.vlm.decoder.layers:  # untrained layers change so little that leaving one out would not show
        layer.self_attn.o_proj.weight.mul_(50)
        layer.mlp.down_proj.weight.mul_(50)
    return made


@pytest.fixture
def words(model):
    return lambda tokens, plan: model.words(tokens, plan, WORDS)


@pytest.fixture
def hidden(model):
    return lambda tokens, plan: model.vlm.decoder(tokens, None, plan)[:, -1]


@pytest.fixture(scope="module")
def light():
    """A run that depends on its plan as a decoder's does, and is captured in a moment."""
    factors = torch.randn(LAYERS, WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5

    def run(given: Tensor, plan) -> Tensor:
        for factor, runs in zip(factors, plan, strict=True):
            if runs:
                given = given + torch.tanh(given @ factor.to(given.dtype))  # (B, N, D)
        return given[:, -1]

    return run


def tokens(length: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))


class Counted:
    """Captures as `Exported` does, and counts."""

    def __init__(self, nbytes: int = 0) -> None:
        self.made, self.replayed, self._nbytes = 0, 0, nbytes

    def __call__(self, run, example) -> Captured:
        captured, self.made = Exported()(run, example), self.made + 1

        def replay(given: Tensor) -> Tensor:
            self.replayed += 1
            return captured.replay(given)

        return Captured(replay, self._nbytes)


# -- the same result
@pytest.mark.parametrize(("what", "mode"), [("hidden", torch.no_grad), ("words", torch.inference_mode)])
def test_a_captured_plan_answers_as_the_model_does(request, what, mode):
    run, capture = request.getfixturevalue(what), Counted()
    runs = CapturedRuns(run, capture, TWICE)
    with mode():
        for seed in range(6):
            assert torch.equal(runs(tokens(seed=seed), PART), run(tokens(seed=seed), PART))
    assert capture.made == 1 and capture.replayed == 1 + 4, "tried once, then replayed in four of six steps"


def test_plans_answer_differently_here_so_a_mix_up_would_show(words, light):
    assert words(tokens(), FULL).tolist() != words(tokens(), PART).tolist()
    assert len({str(light(tokens(), plan).tolist()) for plan in EVERY}) == len(EVERY)


def test_what_was_captured_under_inference_mode_serves_outside_of_it(light):
    runs = CapturedRuns(light, Exported(), Limits(after=1))
    with torch.inference_mode():
        runs(tokens(), PART)
    assert torch.equal(runs(tokens(seed=1), PART), light(tokens(seed=1), PART)) and len(runs.kept) == 1


def test_a_capture_has_no_copy_of_the_weights(hidden, model):
    runs, norm = CapturedRuns(hidden, Exported(), Limits(after=1)), model.vlm.decoder.norm.weight
    runs(tokens(), PART)
    norm.mul_(2)
    try:
        assert torch.equal(runs(tokens(), PART), hidden(tokens(), PART)) and len(runs.kept) == 1
    finally:
        norm.div_(2)


def test_compiled_captures_are_compiled_each_for_itself_however_many_there_are(light):
    """`torch.compile` stops compiling a function that it compiled eight times."""
    made = []

    def compiler(graph, inputs):
        made.append(graph)
        return graph.forward

    runs = CapturedRuns(light, Exported(compiler), Limits(after=1, most=3))
    for plan in EVERY[:12]:
        for seed in range(2):
            assert torch.equal(runs(tokens(seed=seed), plan), light(tokens(seed=seed), plan))
    assert len(made) == 12 and len(runs.kept) == 3


def test_a_compiler_that_needs_no_other_compiler_is_enough(light):
    runs = CapturedRuns(light, Exported("aot_eager"), Limits(after=1))
    runs(tokens(), PART)
    assert len(runs.kept) == 1
    assert torch.allclose(runs(tokens(seed=3), PART), light(tokens(seed=3), PART), atol=1e-6)


# -- which plans
def test_a_plan_is_captured_once_it_occurred_often_enough_and_no_sooner(light):
    capture = Counted()
    runs = CapturedRuns(light, capture, Limits(after=3))
    for times in (1, 2, 3, 4):
        runs(tokens(), PART)
        runs(tokens(), EVERY[-times])  # plans that occur once are never captured
        assert capture.made == (times >= 3)
    assert runs.kept == (Key(PART, (1, 12, WIDTH), torch.float32),)


def test_prompts_of_another_length_and_type_are_captured_apart(light):
    runs = CapturedRuns(light, Exported(), Limits(after=1))
    for length in (12, 14):
        for seed in range(2):
            assert torch.equal(runs(tokens(length, seed), PART), light(tokens(length, seed), PART))
    assert [key.shape for key in runs.kept] == [(1, 12, WIDTH), (1, 14, WIDTH)]
    assert runs(tokens().bfloat16(), PART).dtype == torch.bfloat16 and len(runs.kept) == 3


def test_the_least_recently_used_capture_makes_room(light):
    runs = CapturedRuns(light, Exported(), Limits(after=1, most=2))
    for plan in (FULL, PART, FULL, OTHER):  # FULL is used again before OTHER needs room
        runs(tokens(), plan)
    assert [key.plan for key in runs.kept] == [FULL, OTHER]


def test_a_plan_that_was_given_up_has_to_be_frequent_again(light):
    capture = Counted()
    runs = CapturedRuns(light, capture, Limits(after=2, most=1))
    for plan in (FULL, FULL, PART, PART, FULL):
        runs(tokens(), plan)
    assert capture.made == 2 and [key.plan for key in runs.kept] == [PART]
    runs(tokens(), FULL)
    assert capture.made == 3 and [key.plan for key in runs.kept] == [FULL]


def test_captures_keep_within_their_memory(light):
    runs = CapturedRuns(light, Counted(nbytes=40), Limits(after=1, most=9, most_bytes=100))
    for plan in (FULL, PART, OTHER):
        runs(tokens(), plan)
    assert [key.plan for key in runs.kept] == [PART, OTHER] and runs.nbytes == 80


def test_plans_are_counted_within_bounds(light):
    runs = CapturedRuns(light, Exported(), Limits(after=9, remembered=5))
    for plan in EVERY:
        runs(tokens(), plan)
    assert len(runs._seen) == 5


# -- a capture that is not kept
def wrong(run, example) -> Captured:
    answer = run(example)
    return Captured(lambda given: answer.clone(), 0)  # knows its example by heart


def no_capture(run, example) -> Captured:
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


@pytest.mark.parametrize(
    ("capture", "limits", "reason"),
    [
        (wrong, Limits(after=1), "off, allowed are"),
        (no_capture, Limits(after=1), "operation not permitted"),
        (Counted(nbytes=3 << 20), Limits(after=1, most_bytes=1 << 20), "takes 3 MiB, allowed are 1"),
        (CudaGraph(), Limits(after=1), "needs tokens on a GPU, these are on cpu"),
    ],
)
def test_a_capture_that_cannot_be_trusted_is_said_once_and_not_tried_again(light, caplog, capture, limits, reason):
    runs = CapturedRuns(light, capture, limits)
    for seed in range(3):
        assert torch.equal(runs(tokens(seed=seed), PART), light(tokens(seed=seed), PART))
    assert not runs.kept and len(caplog.records) == 1
    assert reason in caplog.text and "3 of 4 layers at shape (1, 12, 32) run uncaptured" in caplog.text


@pytest.mark.parametrize(("dtype", "factor", "kept"), [
    (torch.float32, 1 + 1e-6, True), (torch.float32, 1 + 1e-3, False),
    (torch.bfloat16, 1 + 1e-2, True), (torch.bfloat16, 1.1, False),
])  # fmt: skip
def test_rounding_of_the_type_that_is_computed_in_is_no_difference(light, dtype, factor, kept):
    """CogACT's feature comes in float32 out of a decoder that computes in bfloat16."""
    off = lambda run, example: Captured(lambda given: run(given) * factor, 0)
    runs = CapturedRuns(lambda given, plan: light(given, plan).float(), off, Limits(after=1))
    runs(tokens().to(dtype), PART)
    assert len(runs.kept) == kept


def test_other_words_are_no_rounding(words, caplog):
    runs = CapturedRuns(words, wrong, Limits(after=1))
    runs(tokens(), PART)
    assert not runs.kept and "other words" in caplog.text


def test_an_unknown_way_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="export, compile, cuda-graph; got 'magic'"):
        by_name("magic")


# -- a deployment that asks for it
@pytest.fixture
def deployed(hf_folder, tmp_path):  # noqa: F811
    def deploy(**more) -> Path:
        folder = linked_copy(hf_folder, tmp_path / f"vla{len(list(tmp_path.iterdir()))}")
        told = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": "float32", **more}
        (folder / "deployment.json").write_text(json.dumps(told))
        return folder

    return deploy


def test_a_deployment_may_capture_its_plan_and_acts_alike(deployed):
    plain, capturing = loading.load(deployed()), loading.load(deployed(capture="export"))
    for seed in range(Limits().after + 2):
        seen = Observation({"front": frame(seed)}, HERE, 1.0, "Close the drawer", float(seed))
        assert np.array_equal(plain.step(seen).chunk.actions, capturing.step(seen).chunk.actions)
    assert len(capturing._head._words.kept) == 1


def test_cogact_samples_the_same_chunks_when_captured(tmp_path):
    run = cogact_checkpoint.load(tool("reference_cogact_vla").write_checkpoint(tmp_path / "run"), dtype="float32")
    settings = CogACTSettings("front", (48, 64), period_s=0.2, execute=4)
    plain, capturing = make(run, settings), make(run, settings, capture=Exported())
    for seed in range(Limits().after + 1):
        seen = Observation({"front": frame(seed)}, HERE, 1.0, "Close the drawer", float(seed))
        assert np.array_equal(plain.step(seen).chunk.actions, capturing.step(seen).chunk.actions)
    assert len(capturing._head._cognition.kept) == 1


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("magic", "capture is .magic., expected one of export, compile, cuda-graph"),
        ("cuda-graph", "needs a GPU, not cpu"),
    ],
)
def test_a_deployment_that_asks_for_what_is_not_there_is_refused(deployed, way, reason):
    with pytest.raises(ContractError, match=reason):
        loading.load(deployed(capture=way))


# -- on a GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("what", ("hidden", "words"))
def test_a_cuda_graph_answers_as_the_model_does(model, what):
    on_gpu = model.to("cuda")
    run = {"hidden": lambda x, plan: on_gpu.vlm.decoder(x, None, plan)[:, -1],
           "words": lambda x, plan: on_gpu.words(x, plan, WORDS)}[what]  # fmt: skip
    runs = CapturedRuns(run, CudaGraph(), Limits(after=1, most=2))
    with torch.inference_mode():
        for plan, length in itertools.product((FULL, PART, OTHER), (12, 14)):
            for seed in range(3):
                given = tokens(length, seed).cuda()
                kept = runs(given, plan)
                expected = run(given, plan)
                runs(tokens(length, seed + 9).cuda(), plan)  # a later replay leaves earlier results alone
                assert torch.allclose(kept.float(), expected.float(), atol=1e-5)
    assert len(runs.kept) == 2 and runs.nbytes > 0
    model.to("cpu")
