"""OpenVLA and CogACT as teachers, in small: one command from the folder to a student that runs; killed, resumed,
refused."""

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
from distill_parts import parse, random_teacher
from safetensors.torch import load_file
from vla_parts import edit_json, linked_copy

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.data.episode import DataError
from actdistill_ros.distill import command, depth, judge, report
from actdistill_ros.distill.graph import HeadConfig, LayerHeads
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.losses import StreamWeights
from actdistill_ros.distill.memory import Meter
from actdistill_ros.distill.student import StudentSettings
from actdistill_ros.distill.vla import command as vla_command
from actdistill_ros.distill.vla import estimate, measures
from actdistill_ros.distill.vla.adapters import LINEAR, LowRank
from actdistill_ros.distill.vla.samples import VlaBatch
from actdistill_ros.distill.vla.student import VlaStudent
from actdistill_ros.distill.vla.teacher import VlaTeacher, head_of, load, said
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import deployment
from actdistill_ros.policy.vla.openvla import PrismaticShape

STEPS, KILL_AFTER = 7, 2
SMALL = ["--budget", 0.75, "--batch", 8, "--probe-steps", 2, "--threads", 1, "--save-every", 1, "--rank", 4]
HEADS = HeadConfig(graph=False)
GB = 10**9


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return parts.data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def openvla(tmp_path_factory) -> Path:
    return parts.teacher(tmp_path_factory.mktemp("openvla") / "teacher", "openvla")


@pytest.fixture(scope="module")
def cogact(tmp_path_factory) -> Path:
    return parts.teacher(tmp_path_factory.mktemp("cogact") / "teacher", "cogact")


@pytest.fixture(scope="module")
def words(openvla, data):
    return ["--teacher", openvla, "--data", data, "--steps", STEPS, *SMALL]


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


def student(teacher: VlaTeacher, rank: int = 4, **settings) -> VlaStudent:
    torch.manual_seed(0)
    shape = teacher.shape
    heads = LayerHeads(shape.layers, shape.width, shape.chunk, shape.action_dim, HEADS)
    told = StudentSettings(**{"budget": 0.75, "steps": 20, "batch": 8, "warmup": 2, **settings})
    return VlaStudent("student", teacher, heads, depth.places([2, 1], shape.layers), told, rank)


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


# -- what it costs
def test_a_dry_run_shows_its_arithmetic_and_writes_nothing(words, tmp_path, capsys):
    assert command.run(parse(*words, "--out", tmp_path / "x", "--dry-run")) == 0
    text = capsys.readouterr().out
    assert "adapters of rank 4: 15.9 k × 20 bytes" in text and "memory" in text and "min" in text
    assert not list(tmp_path.iterdir())


def test_the_estimate_counts_what_is_there(openvla, data):
    made = student(VlaTeacher(openvla, [data], None))
    sizes = estimate.measure(openvla, [data])
    assert sizes.frozen == made.teacher.parameters
    assert 4 * sizes.adapted == sum(p.numel() for p in made.trained.parameters().values())
    lengths = made.teacher.samples.at(made.teacher.samples.training).length
    assert sizes.tokens == int(lengths.max()) + made.teacher.patches + 7


def test_a_teacher_of_seven_billion_weights_fits_one_card_of_80_gb():
    sizes = estimate.sizes_of(PrismaticShape(), words=40, head={})
    needed = {
        checkpointing: sum(p.size for p in estimate.memory(sizes, "bfloat16", 32, HeadConfig(), 16, checkpointing))
        for checkpointing in (True, False)
    }
    assert sizes.frozen > 7e9
    assert needed[True] < 0.8 * 80 * GB < 80 * GB < needed[False]


# -- refused
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--split"], "--split is not for published VLAs: each process holds the whole teacher"),
        (["--controls"], "--controls is not for published VLAs: judge the student at other budgets"),
        (["--recent-actions", 2], "--recent-actions is not for published VLAs"),
        (["--full"], "give one of the two"),
        (["--rank", 0], "--rank is 0, expected 1 or more"),
        (["--budget", 0.3], "less than the first and the last"),
        (["--batch", 6], "cannot be split into 4 groups"),
    ],
)
def test_what_is_not_for_published_teachers_is_refused_by_name(words, tmp_path, more, reason):
    with pytest.raises(DistillError, match=reason):
        command.run(parse(*words, "--out", tmp_path / "x", *more))
    assert not list(tmp_path.iterdir())


def test_adapters_are_refused_for_other_teachers(data, tmp_path):
    teacher = random_teacher(tmp_path / "teacher")
    with pytest.raises(DistillError, match="--full and --rank are for published VLAs"):
        command.run(parse("--teacher", teacher, "--data", data, "--out", tmp_path / "x", "--full"))


def test_a_student_is_not_distilled_again(words, distilled, tmp_path):
    with pytest.raises(DistillError, match="has a router, so it is a student"):
        command.run(parse(*words, "--out", tmp_path / "x", "--teacher", distilled))


def test_a_teacher_that_is_not_deployed_is_refused_with_an_example(words, openvla, tmp_path):
    bare = linked_copy(openvla, tmp_path / "bare")
    (bare / "deployment.json").unlink()
    with pytest.raises(ContractError, match=r'deployment\.json is missing.*"camera": "front"'):
        command.run(parse(*words, "--out", tmp_path / "x", "--teacher", bare))


@pytest.mark.parametrize(
    ("told", "reason"),
    [({"layers": [0, 3]}, "leaves layers out"), ({"dtype": "float16"}, "in float32 or bfloat16, not float16")],
)
def test_a_teacher_that_cannot_be_trained_from_is_refused(words, openvla, tmp_path, told, reason):
    other = linked_copy(openvla, tmp_path / "other")
    edit_json(other / "deployment.json", lambda body: body | told)
    with pytest.raises(DistillError, match=reason):
        command.run(parse(*words, "--out", tmp_path / "x", "--teacher", other))


def test_neither_the_teacher_nor_what_lies_elsewhere_is_overwritten(words, openvla, data):
    for out, reason in ((openvla, "is the teacher itself"), (data, "holds no student of teacher")):
        with pytest.raises((DistillError, ContractError), match=reason):
            command.run(parse(*words, "--out", out))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fps": 10}, "10 frames per second"),
        ({"camera": "wrist"}, "says that the teacher sees front"),
        ({"episodes": 8}, "8 episodes are too few"),
    ],
)
def test_data_that_do_not_fit_the_teacher_are_refused_before_anything_is_trained(words, tmp_path, change, reason):
    other = parts.data(tmp_path / "other", **change)
    with pytest.raises(DataError, match=reason):
        command.run(parse(*words, "--out", tmp_path / "x", "--data", other))
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.training").exists()


def test_an_unfinished_run_of_other_settings_is_not_resumed(openvla, data, tmp_path):
    from actdistill_ros.distill.loop import fit

    made = student(VlaTeacher(openvla, [data], None), steps=1)
    fit(made, tmp_path, 1, say=lambda _: None)
    made.settings = made.settings.replace('"rank": 4', '"rank": 8')
    with pytest.raises(DistillError, match="rank: 4 there, 8 now"):
        fit(made, tmp_path, 1)


def without_labels(folder: Path, data: Path) -> Path:
    """The same data set whose frames are not labelled."""
    copy = linked_copy(data, folder)
    edit_json(copy / "meta" / "info.json", lambda info: info["features"].pop("chunk") and None)
    return copy


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder, data: without_labels(folder, data), "has no column chunk"),
        (lambda folder, data: parts.data(folder, fps=10), "has 10 frames per second"),
        (lambda folder, data: parts.data(folder, episodes=2), "2 episodes are too few"),
    ],
)
def test_a_dry_run_refuses_the_data_that_the_run_would_refuse(openvla, data, tmp_path, spoil, reason, more):
    spoilt = spoil(tmp_path / "set", data)
    with pytest.raises(DataError, match=reason):
        command.run(parse("--teacher", openvla, "--data", spoilt, *SMALL, "--out", tmp_path / "x", *more))


@pytest.mark.parametrize(
    ("more", "told", "reason"),
    [
        (["--batch", 80], {}, "a batch of 80 is more than the 78 samples"),
        ([], {"statistics": "libero_spatial", "action_space": "arx5_metres"}, "no statistics 'libero_spatial'"),
        ([], {"action_space": "libero"}, "beyond the range are refused"),
    ],
)
def test_a_dry_run_says_how_the_data_fit_the_teacher(openvla, data, tmp_path, more, told, reason):
    teacher = linked_copy(openvla, tmp_path / "teacher")
    edit_json(teacher / "deployment.json", lambda body: body | told)
    with pytest.raises((DataError, ContractError), match=reason):
        command.run(parse("--teacher", teacher, "--data", data, *SMALL, *more, "--out", tmp_path / "x", "--dry-run"))


def test_a_distillation_that_does_not_fit_in_memory_is_refused_before_the_teacher_is_loaded(
    words, tmp_path, monkeypatch
):
    monkeypatch.setattr(Meter, "free", lambda self: 1 << 20)
    monkeypatch.setattr(vla_command, "VlaTeacher", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(DistillError, match=r"of memory are needed and 0\.0 GiB are there"):
        command.run(parse(*words, "--out", tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_teacher_of_another_world_is_not_trained_to_be_judged_on_the_tabletop(words, tmp_path, more):
    with pytest.raises(ContractError, match=r"an action each 0\.2 s and cameras front of 48 × 64; the tabletop has"):
        command.run(parse(*words, "--out", tmp_path / "x", "--eval-episodes", 1, *more))
    assert not list(tmp_path.iterdir())


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
