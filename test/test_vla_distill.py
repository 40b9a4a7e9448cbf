"""OpenVLA and CogACT as teachers, in small: one command from the folder to a student that runs; killed, resumed."""

# ruff: noqa: F811

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import vla_distill_parts as parts
from distill_parts import parse
from safetensors.torch import load_file
from vla_distill_fixtures import HEADS, SMALL, STEPS, cogact, data, openvla, student, words  # noqa: F401

from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.distill import command, judge, report
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.losses import StreamWeights
from actdistill_ros.distill.vla import measures
from actdistill_ros.distill.vla.adapters import LINEAR, LowRank
from actdistill_ros.distill.vla.samples import VlaBatch
from actdistill_ros.distill.vla.teacher import VlaTeacher, head_of, load, said
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import deployment

KILL_AFTER = 2


@pytest.fixture(scope="module")
def distilled(words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("students") / "whole"
    assert command.run(parse(*words, "--out", out)) == 0
    return out


@pytest.fixture(scope="module")
def unspoiled(openvla, data) -> VlaTeacher:
    """A teacher that no test adapts."""
    torch.set_num_threads(1)
    return VlaTeacher(openvla, [data], None)


def observation(seed: int = 0) -> Observation:
    frame = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Observation({"front": frame}, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, parts.SENTENCES[0], 7.0)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


# -- the command
def test_one_command_leaves_a_student_that_loads_and_steps_under_every_budget(distilled):
    runtime = loading.load(distilled)
    assert runtime.budget == 0.75
    for budget, most in ((0.5, 2), (0.75, 4), (1.0, 4)):
        runtime.set_budget(budget)
        result = runtime.step(observation())
        assert result.executed[[0, -1]].all() and result.executed.sum() <= most
        assert np.isfinite(result.chunk.actions).all()
    assert result.executed.all(), "budget 1 runs everything"


def test_the_report_tells_the_held_out_curve_and_the_command(distilled):
    body = json.loads((distilled / report.BODY).read_text())
    assert [row["budget"] for row in body["held_out"]] == sorted({*command.CURVE_BUDGETS, 0.75})
    assert all(row["share"] <= max(row["budget"], 2 / parts.LAYERS) + 1e-6 for row in body["held_out"])
    assert {"task", "output", "apart", "error", "teacher_error", "agreement"} <= body["held_out"][0].keys()
    assert body["held_out"][-1]["output"] <= body["held_out"][0]["output"]
    assert "--rank 4" in body["commands"][0] and "same words" in (distilled / report.TEXT).read_text()
    assert (distilled / report.PICTURE).stat().st_size > 10_000


def test_only_the_decoders_linear_layers_differ_from_the_teachers_files(openvla, distilled):
    was, now = tensors(openvla), tensors(distilled)
    router = {name for name in now if name not in was}
    assert all(name.startswith(("vision", "language", "gate", "place", "always", "budgets", "thresholds", "shares"))
               for name in router)  # fmt: skip
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    assert changed == {name for name in was if name.split(".")[-2] in LINEAR}


def test_a_run_killed_at_any_moment_ends_with_the_same_weights_and_curve(words, distilled, tmp_path):
    out = tmp_path / "killed"
    call = [sys.executable, "-m", "actdistill_ros.cli", "distill", *map(str, words), "--out", str(out)]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    state, deadline = tmp_path / "killed.training" / "student.pt", time.monotonic() + 600
    while not (state.exists() and torch.load(state, weights_only=True)["step"] >= KILL_AFTER):
        assert process.poll() is None and time.monotonic() < deadline, "it was to be killed in the middle of stage 2"
    process.kill()
    process.wait()
    assert not out.exists(), "it was to be killed before its end"
    assert command.run(parse(*words, "--out", out)) == 0
    whole, resumed = tensors(distilled), tensors(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [
        torch.load(work / "student.pt", weights_only=True)["curve"]
        for work in (distilled.with_name("whole.training"), state.parent)
    ]
    assert curves[0] == curves[1]


def test_a_cogact_student_has_its_own_head_and_runs_what_the_router_chooses(cogact, data, tmp_path):
    out = tmp_path / "student"
    small = [*SMALL, "--steps", 1, "--no-graph", "--checkpointing"]
    assert command.run(parse("--teacher", cogact, "--data", data, "--out", out, *small)) == 0
    result = loading.load(out).step(observation())
    assert result.chunk.actions.shape == (16, 7) and result.executed[[0, -1]].all()
    was, now = (load(f, deployment.read(f), "float32", "cpu").model.state_dict() for f in (cogact, out))
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    assert "head.blocks.0.mlp.fc1.weight" in changed and "vlm.decoder.layers.3.mlp.up_proj.weight" in changed
    assert all(name.startswith(("head.", "vlm.decoder.layers.")) for name in changed)


def test_a_student_is_not_distilled_again(words, distilled, tmp_path):
    with pytest.raises(DistillError, match="has a router, so it is a student"):
        command.run(parse(*words, "--out", tmp_path / "x", "--teacher", distilled))


def test_the_report_is_there_whatever_becomes_of_judging(words, tmp_path, monkeypatch):
    def broken(*_):
        raise DistillError("the evaluation of teacher ended with exit code 1")

    monkeypatch.setattr(judge, "all_of", broken)
    small = ["--steps", 1, "--no-graph", "--budget", 1.0]
    with pytest.raises(DistillError, match="ended with exit code 1"):
        command.run(parse(*words, *small, "--out", tmp_path / "x"))
    body = json.loads((tmp_path / "x" / report.BODY).read_text())
    assert body["judged"] == {} and len(body["held_out"]) == len(command.CURVE_BUDGETS)
    assert (tmp_path / "x" / report.TEXT).is_file() and loading.load(tmp_path / "x").budget == 1.0


# -- adapters
def test_merged_adapters_say_what_the_adapted_decoder_says(openvla):
    model = load(openvla, deployment.read(openvla), "float32", "cpu").model
    tokens = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    before = model.lm_head(model.vlm.decoder(tokens, None))
    torch.manual_seed(0)
    adapters = LowRank(model.vlm.decoder, 4)
    with torch.no_grad():
        for p in adapters.parameters().values():
            torch.nn.init.normal_(p, std=0.1)
        adapted = model.lm_head(adapters.decoder(tokens, None))
    assert (adapted - before).abs().max() > 0.05
    with adapters.off():
        assert torch.equal(model.lm_head(model.vlm.decoder(tokens, None)), before)
    merged = load(openvla, deployment.read(openvla), "float32", "cpu").model
    _, extra = merged.load_state_dict(dict(adapters.merged()), strict=False)
    assert not extra and len(adapters.merged()) == len(LINEAR) * parts.LAYERS
    assert torch.allclose(merged.lm_head(merged.vlm.decoder(tokens, None)), adapted, atol=1e-5)


def test_an_untrained_student_at_full_budget_is_the_teacher(openvla, data):
    made = student(VlaTeacher(openvla, [data], None))
    made.finish(16)
    (row,) = measures.held_out_curve(made, [1.0], 16)
    assert row["share"] == 1.0 and row["apart"] == 0.0 and row["agreement"] == 1.0 and abs(row["output"]) < 1e-6


def test_a_decoder_is_adapted_once(openvla, data):
    teacher = VlaTeacher(openvla, [data], None)
    student(teacher)
    with pytest.raises(ValueError, match="one student at a time"):
        student(teacher)


# -- what is learnt
def test_action_words_follow_each_prompt_at_once_and_are_read_there(unspoiled):
    """Prompts of two lengths in one batch, against each of them alone, not padded, through the model as it runs."""
    batch = unspoiled.samples.at(unspoiled.samples.training[[0, parts.LENGTH]])
    assert batch.length[0] != batch.length[1]
    given = unspoiled.give(batch)
    together = unspoiled.features(unspoiled.trace(given)[-1], given)  # (2, 8, D)
    assert given.present.sum(1).tolist() == (batch.length + unspoiled.patches).tolist(), "prompts only are seen"
    for i, length in enumerate(batch.length.tolist()):
        ids = torch.cat([batch.ids[i : i + 1, :length], batch.words[i : i + 1]], dim=1)
        assert torch.equal(said(batch.ids, batch.length, batch.words)[i, : length + 7], ids[0])
        with torch.no_grad():
            alone = unspoiled.vlm.decoder(unspoiled.vlm.embed_inputs(batch.pixels[i : i + 1], ids), None)[0, -8:]
        assert torch.allclose(together[i], alone, atol=1e-5)


def test_the_losses_fall(openvla, data):
    alone = {"streams": StreamWeights(alpha=0.0, beta=0.0), "output": 0.0, "budget": 1.0}
    made = student(VlaTeacher(openvla, [data], None), learning_rate=2e-2, steps=100, **alone)
    curve = [made.update() for _ in range(7)]
    assert curve[0].keys() == {"task", "compute", "layers"}, "terms that are switched off are missing"
    assert np.mean([terms["task"] for terms in curve[-3:]]) < 0.9 * curve[0]["task"], "the words' table is frozen"


def test_every_term_is_there_and_all_that_is_trained_moves(openvla, data):
    made = student(VlaTeacher(openvla, [data], None))
    before = {name: p.detach().clone() for name, p in made._kept.items()}
    for _ in range(2):
        terms = made.update()
    assert {"task", "output", "align", "relate", "act", "compute", "layers"} == terms.keys()
    still = {name for name, p in made._kept.items() if torch.equal(before[name], p)}
    assert not {name for name in still if not name.startswith("layers.")}, "router and place"
    assert len(still) < len(before) / 4, "adapters of layers that hardly any gate let through may rest"


def test_checkpointing_changes_no_step(openvla, data):
    plain, less = (student(VlaTeacher(openvla, [data], None, checkpointing=on)) for on in (False, True))
    for _ in range(2):
        assert plain.update() == pytest.approx(less.update(), rel=1e-5)
    assert all(torch.allclose(p, less._kept[name], atol=1e-6) for name, p in plain._kept.items())


@pytest.mark.parametrize("kind", ["openvla", "cogact"])
def test_everything_of_a_step_is_on_the_teachers_device(kind, data, request):
    """Tensors on `meta` have no values but cannot meet others: what is left on the CPU is found without a GPU."""
    teacher = VlaTeacher(request.getfixturevalue(kind), [data], None)
    made = student(teacher)
    batch = teacher.batch(0, 0, 8).to("meta")
    for module in (teacher.vlm, teacher.head.module, made.trained.decoder, made.head, made.heads, made._fixed):
        module.to("meta")
    teacher.device, teacher.precision = torch.device("meta"), nullcontext
    given = teacher.give(batch)
    terms = made._terms(batch, given, torch.ones(8, parts.LAYERS, device="meta", requires_grad=True))
    assert {term.device.type for term in terms.values()} == {"meta"} and len(terms) == 5


def test_all_of_the_decoder_can_be_trained_instead(openvla, data):
    teacher = VlaTeacher(openvla, [data], None)
    frozen = {name: p.clone() for name, p in teacher.vlm.state_dict().items()}
    made = student(teacher, rank=0)
    made.update()
    made.finish(16)
    names = set(made.tensors())
    assert {"lm_head.weight", "vlm.decoder.norm.weight", "vlm.decoder.layers.1.input_layernorm.weight"} <= names
    assert all(torch.equal(p, frozen[name]) for name, p in teacher.vlm.state_dict().items())


def test_processes_draw_the_noise_of_their_share_of_a_batch(cogact):
    head = head_of(load(cogact, deployment.read(cogact), "float32", "cpu"))
    none = torch.empty(0)
    whole, first, last = (
        head.draw(VlaBatch(none, none, none, torch.zeros(size, 16, 7), none), 4, share, (0, 3))
        for size, share in ((4, slice(0, 4)), (2, slice(0, 2)), (2, slice(2, 4)))
    )
    for name in ("time", "noise", "dropped"):
        all_of, *parts_of = (
            getattr(one, name).unflatten(0, (-1, size)) for one, size in ((whole, 4), (first, 2), (last, 2))
        )
        assert torch.equal(torch.cat(parts_of, dim=1), all_of), name


def test_layers_are_given_up_from_the_least_missed_on(unspoiled):
    order = measures.elimination_order(unspoiled, 4)
    pool = unspoiled.samples.training
    (batch,) = unspoiled.batches(np.sort(np.random.default_rng(0).choice(pool, 4, replace=False)))
    given, head = unspoiled.give(batch), unspoiled.head
    whole = unspoiled.features_under(None, given)
    plans = {layer: [i != layer for i in range(parts.LAYERS)] for layer in (1, 2)}
    costs = {
        layer: head.terms(head.module, unspoiled.features_under(plan, given), whole, batch, None)["output"].item()
        for layer, plan in plans.items()
    }
    assert sorted(order) == [1, 2] and order[0] == min(costs, key=costs.get)
