"""What distilling a published model costs, and what is refused before anything is trained."""

# ruff: noqa: F811

from __future__ import annotations

from pathlib import Path

import pytest
import vla_distill_parts as parts
from distill_parts import parse, random_teacher
from vla_distill_fixtures import SMALL, data, openvla, student, words  # noqa: F401
from vla_parts import edit_json, linked_copy

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.data.episode import DataError
from actdistill_ros.distill import command
from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.memory import Meter
from actdistill_ros.distill.vla import command as vla_command
from actdistill_ros.distill.vla import estimate
from actdistill_ros.distill.vla.teacher import VlaTeacher
from actdistill_ros.policy.vla.openvla import PrismaticShape

GB = 10**9


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
