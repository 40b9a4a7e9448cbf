"""Losses of the heads of published VLAs, on values worked out by hand."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actdistill_ros.distill import vla_losses
from actdistill_ros.policy.vla.diffusion import squared_cosine
from actdistill_ros.policy.vla.dit import SIZES, DiT, DiTShape

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tools"))

import reference_cogact as reference

SMALL = DiTShape(depth=1, width=8, heads=2, cognition=5, chunk=3, actions=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count=4, seed=0):
    drawn = generator(seed)
    return torch.randn(count, 3, 2, generator=drawn), torch.randn(count, 5, generator=drawn)


def test_words_cost_what_their_probability_says():
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]).log()
    expected = -(math.log(0.5) + math.log(0.8)) / 2
    assert vla_losses.words(logits, torch.tensor([[0, 2]])).item() == pytest.approx(expected, rel=1e-6)


def test_the_same_choice_among_action_words_costs_nothing_whatever_other_words_weigh():
    teacher = torch.randn(2, 7, 10, generator=generator())
    student = teacher.clone()
    student[..., :4] += 5.0
    assert vla_losses.bins(student, teacher, 4, 7).item() == pytest.approx(0.0, abs=1e-6)


def test_another_choice_among_action_words_costs_its_divergence():
    teacher = torch.tensor([[[0.0, 0.75, 0.25]]]).log()
    student = torch.tensor([[[0.0, 0.5, 0.5]]]).log()
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert vla_losses.bins(student, teacher, 1, 2).item() == pytest.approx(expected, rel=1e-6)


def test_a_temperature_softens_both_choices_and_keeps_the_size_of_the_gradient():
    teacher, student = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    p = 1 / (1 + math.exp(-1.0))  # at temperature 2
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert vla_losses.bins(student, teacher, 0, 1, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_training_loss_is_the_originals():
    weights = reference.fill({name: tuple(v.shape) for name, v in named_head().items()})
    head = DiT(SIZES["DiT-S"]).eval()
    head.load_state_dict({name.removeprefix("net."): value for name, value in weights.items()})
    clean, noise = reference.drawn("clean", 2, 16, 7), reference.drawn("noise", 2, 16, 7)
    cognition = reference.drawn("cognition", 2, 1, reference.COGNITION)[:, 0]
    draws = vla_losses.Draws(torch.tensor(reference.TIMES[:2]), noise, torch.zeros(2, dtype=torch.bool))
    with np.load(ROOT / "data" / "cogact" / "dit_s.npz") as found, torch.no_grad():
        loss = vla_losses.noise_error(head, squared_cosine(), clean, cognition, draws)
        assert loss.item() == pytest.approx(float(found["loss"]), rel=1e-5)


def named_head():
    with torch.device("meta"):
        return {f"net.{name}": value for name, value in DiT(SIZES["DiT-S"]).state_dict().items()}


def test_a_dropped_condition_is_the_learnt_nothing_for_that_sample_only():
    head, (_, cognition) = DiT(SMALL), batch()
    seen = head.without(cognition, torch.tensor([False, True, False, False]))
    assert torch.equal(seen[1], head.z_embedder.uncondition[0])
    assert torch.equal(seen[[0, 2, 3]], cognition[[0, 2, 3]])


def test_about_one_condition_in_ten_is_dropped_and_every_time_is_drawn():
    draws = vla_losses.draw(torch.zeros(2000, 3, 2), squared_cosine(), generator(), repeats=2)
    assert draws.count == 4000 and draws.noise.shape == (4000, 3, 2)
    assert 0.08 < draws.dropped.float().mean() < 0.12
    assert set(draws.time.tolist()) == set(range(100))


def test_a_student_with_the_teachers_head_and_feature_costs_nothing():
    head, (clean, cognition) = DiT(SMALL), batch()
    draws = vla_losses.draw(clean, squared_cosine(), generator())
    assert vla_losses.noise_distilled(head, head, squared_cosine(), clean, (cognition, cognition), draws).item() == 0.0


def test_distillation_moves_the_student_towards_the_teacher_and_leaves_the_teacher():
    torch.manual_seed(0)
    student, teacher, (clean, cognition) = DiT(SMALL), DiT(SMALL), batch()
    schedule, optimiser = squared_cosine(), torch.optim.Adam(student.parameters(), lr=1e-2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    costs = []
    for _ in range(60):
        draws = vla_losses.draw(clean, schedule, generator(1), dropped=0.0)
        loss = vla_losses.noise_distilled(student, teacher, schedule, clean, (cognition, cognition), draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        costs.append(loss.item())
    assert costs[-1] < 0.2 * costs[0]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_gradient_reaches_what_makes_the_feature_and_the_learnt_nothing():
    head, (clean, cognition) = DiT(SMALL), batch()
    cognition.requires_grad_(True)
    draws = vla_losses.Draws(
        torch.tensor([5, 50, 95, 0]),
        torch.randn(4, 3, 2, generator=generator()),
        torch.tensor([True, False, False, False]),
    )
    vla_losses.noise_error(head, squared_cosine(), clean, cognition, draws).backward()
    assert cognition.grad[0].abs().sum() == 0 and cognition.grad[1].abs().sum() > 0
    assert head.z_embedder.uncondition.grad.abs().sum() > 0


def test_draws_for_another_batch_are_refused():
    head, (clean, cognition) = DiT(SMALL), batch()
    draws = vla_losses.draw(clean[:3], squared_cosine(), generator(), repeats=1)
    with pytest.raises(ValueError, match="3 draws are not a whole number for each of 4 samples"):
        vla_losses.noise_error(head, squared_cosine(), clean, cognition, draws)
