"""Each loss has the value that one computes by hand."""

from __future__ import annotations

import math

import pytest
import torch

from actdistill_ros.distill import losses
from actdistill_ros.distill.losses import Layers, StreamWeights


def test_alignment_is_one_minus_the_cosine():
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [3.0, 3.0]]])
    assert losses.alignment(student, teacher).tolist() == pytest.approx([0.5], abs=1e-6)


def test_structure_compares_the_cosines_between_samples():
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # orthogonal: 0
    teacher = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])  # 45 degrees: 1/√2, on two of four places
    assert losses.structure(student, teacher).tolist() == pytest.approx([0.25], abs=1e-6)


def test_structure_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="batch 1"):
        losses.structure(torch.ones(1, 1, 2), torch.ones(1, 1, 2))


def test_the_action_stream_has_three_terms_and_the_first_layer_two():
    student = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    teacher = torch.tensor([2.0, 2.0]).view(2, 1, 1, 1)
    target = torch.zeros(1, 1, 1)
    assert losses.action_stream(student, teacher, target).tolist() == [1 + 1, 9 + 1 + 4]


def test_the_layer_before_is_held_fixed():
    student = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).requires_grad_()
    still = torch.zeros(2, 1, 1, 1)
    losses.action_stream(student, still, torch.zeros(1, 1, 1))[1].backward()
    assert student.grad.flatten().tolist() == [0.0, 2 * 3 + 2 * 3 + 2 * 2]


def test_depth_weights_rise_with_gamma_and_have_mean_one():
    assert losses.depth_weights(3, 2.0).tolist() == pytest.approx([0.0, 0.6, 2.4])
    assert losses.depth_weights(4, 0.0).tolist() == [1.0] * 4
    w = losses.depth_weights(32, 2.0)
    assert (w[15].item(), w[31].item()) == pytest.approx((0.691, 2.952), abs=1e-3)


def layers(value: float) -> Layers:
    return Layers(torch.eye(2).expand(3, 2, 2) + value, torch.full((3, 2, 1, 7), value))


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        (StreamWeights(), {"align", "relate", "act"}),
        (StreamWeights(alpha=0.0), {"act"}),
        (StreamWeights(beta=0.0), {"align", "relate"}),
        (StreamWeights(eta=0.0), {"align", "act"}),
        (StreamWeights(alpha=0.0, beta=0.0), set()),
    ],
)
def test_every_term_can_be_switched_off(weights, terms):
    found = losses.dual_stream(layers(0.5), layers(0.0), torch.zeros(2, 1, 7), weights)
    assert found.keys() == terms and all(value > 0 for value in found.values())


def test_a_student_that_is_the_teacher_has_only_the_task_left():
    found = losses.dual_stream(layers(0.0), layers(0.0), torch.zeros(2, 1, 7), StreamWeights())
    assert [value.item() for value in found.values()] == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_output_loss_is_zero_for_the_teacher_itself():
    motion, gripper = torch.full((2, 4, 6), 0.3), torch.full((2, 4), 1.5)
    assert losses.output(motion, gripper, motion, gripper).item() == pytest.approx(0.0, abs=1e-6)
    # Half a unit off is past the bend at 0.1: 4 × (0.5 − 0.05).
    assert losses.output(motion + 0.5, gripper, motion, gripper).item() == pytest.approx(1.8, abs=1e-5)
    sure = losses.output(motion, torch.zeros(2, 4), motion, torch.full((2, 4), 50.0))
    assert sure.item() == pytest.approx(math.log(2), abs=1e-5)


def test_the_budget_is_met_by_a_group_not_by_every_sample():
    gates = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    budgets = torch.tensor([0.5, 0.5, 0.25, 0.25])
    assert losses.compute_budget(gates, budgets, groups=2).item() == pytest.approx(0.25**2 / 2)
