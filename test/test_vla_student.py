"""A distilled VLA is written as its teacher is, with a router beside it, and whatever is not whole is refused."""

# ruff: noqa: F811

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from vla_parts import TINY, TOLD, edit_json, hf_folder, linked_copy, maker  # noqa: F401
from vla_student_parts import (  # noqa: F401
    HEAD,
    LAYERS,
    PATCHES,
    UP,
    WIDTH,
    cogact,
    made,
    openvla,
    router,
    spoil,
    student,
)

from actdistill_ros import cli
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, layout, student_folder
from actdistill_ros.policy.vla.router import VlaRouter
from actdistill_ros.policy.vla.sources import ShardedSafetensors
from actdistill_ros.policy.vla.tensor_files import write_shards


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    load = cogact_checkpoint.load if (folder / "checkpoints").is_dir() else checkpoint.load
    return dict(load(folder, dtype="float32").model.named_parameters())


# -- the router
def test_padded_words_change_no_score(router):
    tokens = torch.randn(2, 1 + PATCHES + 5, WIDTH)
    padded = torch.cat([tokens, torch.full((2, 3, WIDTH), 9.0)], dim=1)
    present = torch.arange(padded.shape[1])[None].expand(2, -1) < tokens.shape[1]
    assert torch.allclose(router.evidence(tokens), router.evidence(padded, present), atol=1e-5)


def test_patches_and_words_each_move_the_scores_and_the_first_word_does_not(router):
    tokens = torch.randn(1, 1 + PATCHES + 5, WIDTH)
    for place, moves in ((0, False), (5, True), (PATCHES, True), (-1, True)):
        changed = tokens.clone()
        changed[:, place] = torch.linspace(-9, 9, WIDTH)
        assert torch.allclose(router.evidence(changed), router.evidence(tokens), atol=1e-5) != moves


def test_words_a_hundred_times_smaller_than_patches_are_heard_as_well(router):
    tokens = torch.randn(1, 1 + PATCHES + 5, WIDTH)
    small = tokens.clone()
    small[:, 1 + PATCHES :] /= 100
    assert torch.allclose(router.evidence(small), router.evidence(tokens), atol=1e-4)


def test_scores_are_float32_whatever_the_decoders_type(router):
    tokens = torch.randn(1, 1 + PATCHES + 5, WIDTH).bfloat16()
    plain = router.evidence(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.dtype == torch.float32 and torch.equal(router.evidence(tokens), plain)


def test_a_new_router_gives_each_budget_the_layers_of_lowest_place():
    fresh = VlaRouter(WIDTH, 8, LAYERS, PATCHES)
    fresh.place.data = torch.tensor([0.125, 0.875, 0.625, 0.375])
    tokens = torch.randn(1, 1 + PATCHES + 5, WIDTH)
    for budget, expected in ((0.25, [1, 0, 0, 0]), (0.5, [1, 0, 0, 1]), (0.75, [1, 0, 1, 1]), (1.0, [1, 1, 1, 1])):
        assert (fresh(tokens, None, torch.tensor([budget]))[0] > 0).int().tolist() == expected


# -- what is written
def test_what_was_trained_is_in_the_students_files_and_the_rest_is_the_teachers(openvla, router, tmp_path):
    new = torch.randn(96, WIDTH, dtype=torch.bfloat16)
    student_folder.save(tmp_path / "student", openvla, {UP: new}, router, 0.5)
    was, now = parameters(openvla), parameters(tmp_path / "student")
    assert torch.equal(now.pop(UP), new.float())
    assert all(torch.equal(value, was[name]) for name, value in now.items())


def test_a_cogact_student_has_its_own_head_and_not_its_teachers_average(cogact, router, tmp_path):
    teacher = linked_copy(cogact, tmp_path / "teacher")
    file = next((teacher / "checkpoints").glob("*.pt"))
    body = torch.load(file, weights_only=True)
    body["model"]["ema_diffusion"] = dict(body["model"]["action_model"])
    file.unlink()
    torch.save(body, file)
    student_folder.save(tmp_path / "student", teacher, {HEAD: torch.ones(1536)}, router, 0.5)
    was, now = parameters(teacher), parameters(tmp_path / "student")
    assert torch.equal(now.pop(HEAD), torch.ones(1536))
    assert all(torch.equal(value, was[name]) for name, value in now.items())
    whole = torch.load(tmp_path / "student" / "checkpoints" / file.name, weights_only=True)["model"]
    assert whole.keys() == body["model"].keys() - {"ema_diffusion"}
    spare = "siglip_featurizer.attn_pool.kv.weight"  # never loaded, but carried over for whoever reads the file
    assert torch.equal(whole["vision_backbone"][spare], body["model"]["vision_backbone"][spare])


def test_the_teachers_type_is_kept(router, tmp_path):
    teacher = maker.write_folder(tmp_path / "teacher", TINY, dtype="bfloat16")
    (teacher / "deployment.json").write_text(json.dumps(TOLD))
    student_folder.save(tmp_path / "student", teacher, {UP: torch.randn(96, WIDTH)}, router, 0.5)
    found = ShardedSafetensors(tmp_path / "student").contents()[""]
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert {name: tensor.shape for name, tensor in found.items()} == maker.shapes_of(TINY)


def test_no_shard_is_larger_than_allowed_and_the_index_names_them_all(openvla, tmp_path):
    held = ShardedSafetensors(openvla).contents()[""]
    write_shards(tmp_path, held, shard_bytes=9_000_000)
    sizes = [path.stat().st_size for path in tmp_path.glob("model-*")]
    assert len(sizes) > 1 and max(sizes) < 9_100_000
    again = ShardedSafetensors(tmp_path)
    assert again.shapes == ShardedSafetensors(openvla).shapes
    with safe_open(tmp_path / f"model-00001-of-0000{len(sizes)}.safetensors", framework="pt") as shard:
        for name in shard.keys():  # noqa: SIM118
            assert torch.equal(shard.get_tensor(name), torch.cat(list(held[name].parts())))


def test_what_lies_beside_the_weights_is_carried_over_but_code_and_fixed_layers(openvla, router, tmp_path):
    teacher = linked_copy(openvla, tmp_path / "teacher")
    (teacher / "modeling_prismatic.py").write_text("raise SystemExit")
    (teacher / "LICENSE.txt").write_text("as it was")
    edit_json(teacher / "deployment.json", lambda told: told | {"layers": [0, 3], "crop_area": 0.9})
    student_folder.save(tmp_path / "student", teacher, {}, router, 0.5)
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "LICENSE.txt"):
        assert (tmp_path / "student" / name).read_bytes() == (teacher / name).read_bytes()
    assert not (tmp_path / "student" / "modeling_prismatic.py").exists()
    assert json.loads((tmp_path / "student" / "deployment.json").read_text()) == TOLD | {"crop_area": 0.9}
    assert loading.load(tmp_path / "student").budget == 0.5


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"vlm.decoder.layers.9.mlp.up_proj.weight": torch.ones(96, WIDTH)}, r"layers\.9.* was trained, which"),
        ({"vlm.router.gate": torch.ones(1)}, "vlm.router.gate was trained, which"),
        ({HEAD: torch.ones(1536)}, "head.blocks.1.* was trained, which"),
        ({UP: torch.ones(95, WIDTH)}, r"was trained as \(95, 64\); the teacher's is \(96, 64\)"),
        ({UP: torch.full((96, WIDTH), torch.inf)}, "up_proj.weight is not finite as float32: training failed"),
    ],
)
def test_weights_that_cannot_be_the_students_leave_nothing_behind(openvla, router, tmp_path, trained, message):
    with pytest.raises(ContractError, match=message):
        student_folder.save(tmp_path / "student", openvla, trained, router, 0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "budget", "message"),
    [
        ((WIDTH, 8, LAYERS, PATCHES), 0.5, "the trained router was never calibrated"),
        ((WIDTH, 8, 32, PATCHES), 0.5, "the trained router: a router for 32 layers, the model has 4"),
        ((WIDTH, 8, LAYERS, 729), 0.5, "the trained router: a router for 729 patches, the model has 256"),
        ((4096, 8, LAYERS, PATCHES), 0.5, r"vision.weight is \(8, 4096\), expected \(8, 64\)"),
        ((WIDTH, 8, LAYERS, PATCHES), 0.2, "budget 0.2 is not in 0.25 … 1"),
    ],
)
def test_a_router_that_could_not_be_loaded_is_not_written(openvla, tmp_path, shape, budget, message):
    with pytest.raises(ContractError, match=message):
        student_folder.save(tmp_path / "student", openvla, {}, VlaRouter(*shape), budget)
    assert not list(tmp_path.iterdir())


def test_a_link_to_another_disk_is_followed(openvla, router, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "student").symlink_to(tmp_path / "disk" / "student")
    for budget in (0.5, 0.75):
        student_folder.save(tmp_path / "student", openvla, {}, router, budget)
        assert loading.load(tmp_path / "student").budget == budget
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["student"]


def test_a_folder_that_holds_something_else_is_never_overwritten(openvla, cogact, router, student, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    for out, message in ((mine, "holds no student of openvla@"), (openvla, "is the teacher itself")):
        with pytest.raises(ContractError, match=message):
            student_folder.save(out, openvla, {}, router, 0.5)
    with pytest.raises(ContractError, match="holds a student of openvla@.*, not of cogact@"):
        student_folder.check(student, cogact)
    assert (mine / "thesis.tex").read_text() == "years" and loading.load(student).budget == 0.75


def test_a_disk_too_small_is_named_before_anything_is_written(openvla, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10 << 20))
    with pytest.raises(ContractError, match="weights take 0.0 GiB, 0.0 GiB of the disk are free"):
        student_folder.check(tmp_path / "student", openvla)


def test_a_finished_student_is_not_overwritten_by_another_run(openvla, student, tmp_path, capsys):
    words = ["distill", "--teacher", str(openvla), "--data", str(tmp_path), "--budget", "0.5"]
    assert cli.main([*words, "--out", str(student)]) == 2
    assert "student holds a finished checkpoint and" in capsys.readouterr().err
    assert loading.load(student).budget == 0.75


class Deadly(Mapping):
    """Weights whose second is the end of the process that asks for it."""

    def __init__(self) -> None:
        self._names = [UP, "lm_head.weight"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name != UP:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(96, WIDTH)


@pytest.mark.parametrize("earlier", [False, True])
def test_killed_while_it_writes_the_folder_is_what_it_was_and_the_next_time_goes_well(
    openvla, router, made, tmp_path, earlier
):
    out = linked_copy(made, tmp_path / "student") if earlier else tmp_path / "student"
    if (child := os.fork()) == 0:
        student_folder.save(out, openvla, Deadly(), router, 0.5)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path != out]
    assert left and not any(layout.is_vla(path) for path in left)
    assert out.exists() == earlier and (not earlier or loading.load(out).budget == 0.75)
    student_folder.save(out, openvla, {}, router, 0.5)
    assert list(tmp_path.iterdir()) == [out] and loading.load(out).budget == 0.5


# -- what is refused
def cut(folder: Path) -> None:
    whole = (folder / "router.safetensors").read_bytes()
    rewrite(folder / "router.safetensors", whole[: len(whole) // 2])


def rewrite(path: Path, content: bytes) -> None:
    """Not into the file itself, which other copies share."""
    path.unlink()
    path.write_bytes(content)


def told(**changes):
    return lambda folder: edit_json(folder / "router.json", lambda body: body | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "router.safetensors").unlink(), "router.safetensors is missing: a student needs"),
        (lambda f: (f / "router.json").unlink(), "router.json is missing: a student needs"),
        (cut, "router.safetensors is truncated or damaged"),
        (lambda f: spoil(f, place=None), r"router.safetensors: place is missing, expected \(4,\)"),
        (lambda f: spoil(f, **{"vision.weight": torch.ones(8, 32)}), r"vision.weight is \(8, 32\), expected \(8, 64\)"),
        (lambda f: spoil(f, place=torch.full((4,), torch.nan)), "place is not finite"),
        (lambda f: spoil(f, shares=torch.zeros(76)), "never calibrated"),
        (lambda f: spoil(f, thresholds=torch.full((76,), torch.nan)), "budgets and thresholds are no calibration"),
        (lambda f: spoil(f, budgets=torch.zeros(76)), "budgets and thresholds are no calibration"),
        (told(layers=32), "router.json: a router for 32 layers, the model has 4"),
        (told(patches=729), "router.json: a router for 729 patches, the model has 256"),
        (told(format=2), "router.json: format 2; this package reads 1"),
        (told(hidden="wide"), "router.json does not describe a router"),
        (told(budget=0.1), "router.json: budget 0.1 is not in 0.25 … 1"),
        (lambda f: rewrite(f / "router.json", b"{"), "router.json does not describe a router"),
        (
            lambda f: edit_json(f / "deployment.json", lambda body: body | {"layers": [0, 3]}),
            r"deployment.json fixes layers \[0, 3\], and .*router.safetensors chooses them",
        ),
    ],
)
def test_a_router_that_is_broken_or_anothers_is_refused_by_name_before_a_weight_is_read(
    student, change, message, monkeypatch
):
    def read(*_, **__):
        raise AssertionError("weights were read")

    change(student)
    monkeypatch.setattr(checkpoint, "load", read)
    with pytest.raises(ContractError, match=message):
        loading.load(student)
