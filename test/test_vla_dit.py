"""CogACT's diffusion head against the original code's answers (test/data/cogact, tools/reference_cogact.py)."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actdistill_ros.policy.vla.diffusion import GUIDANCE, SAMPLING_STEPS, sample, squared_cosine
from actdistill_ros.policy.vla.dit import SIZES, DiT, DiTShape

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tools"))

import reference_cogact as reference

DATA = ROOT / "data" / "cogact"
HEADS = json.loads((DATA / "heads.json").read_text())
BAR = 1e-4


def shapes(kind):
    with torch.device("meta"):
        head = DiT(SIZES[kind])
    return {f"net.{name}": list(value.shape) for name, value in head.state_dict().items()}


def filled(kind):
    weights = reference.fill({name: tuple(shape) for name, shape in HEADS["shapes"][kind].items()})
    with torch.device("meta"):
        head = DiT(SIZES[kind])
    head.load_state_dict({name.removeprefix("net."): value for name, value in weights.items()}, assign=True)
    return head.eval()


def inputs(batch):
    noise = reference.drawn("noise", batch, 16, 7)
    return noise, reference.drawn("cognition", batch, 1, reference.COGNITION)[:, 0]


@pytest.fixture(scope="module")
def small():
    return filled("DiT-S")


@pytest.fixture(scope="module")
def answers():
    with np.load(DATA / "dit_s.npz") as found:
        return {name: torch.from_numpy(value) for name, value in found.items()}


def furthest(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("kind", SIZES)
def test_names_and_shapes_are_those_of_published_heads(kind):
    assert shapes(kind) == HEADS["shapes"][kind]


@pytest.mark.parametrize("time", reference.TIMES)
@torch.no_grad()
def test_the_noise_it_sees_is_the_originals_with_and_without_guidance(small, answers, time):
    noise, cognition = inputs(2)
    at = torch.full((2,), time)
    assert furthest(small(noise, at, cognition), answers[f"noise_{time}"]) <= BAR
    assert furthest(small.guided(noise, at, cognition, GUIDANCE), answers[f"guided_{time}"]) <= BAR


def test_guidance_moves_every_action_of_the_chunk_and_every_value_of_it(small):
    noise, cognition = inputs(1)
    at = torch.tensor([50])
    with torch.no_grad():
        moved = small.guided(noise, at, cognition, GUIDANCE) - small(noise, at, cognition)
    assert (moved.abs() > 1e-6).all()


def test_guidance_of_one_is_the_conditional_answer(small):
    noise, cognition = inputs(1)
    with torch.no_grad():
        guided = small.guided(noise, torch.tensor([5]), cognition, 1.0)
        assert torch.equal(guided, small(noise, torch.tensor([5]), cognition))


@torch.no_grad()
def test_samples_are_the_originals(small, answers):
    noise, cognition = inputs(2)
    schedule = squared_cosine()
    guided = sample(lambda x, t: small.guided(x, t, cognition, GUIDANCE), noise, schedule, SAMPLING_STEPS)
    unguided = sample(lambda x, t: small(x, t, cognition), noise, schedule, SAMPLING_STEPS)
    assert furthest(guided, answers["sample"]) <= BAR
    assert furthest(unguided, answers["sample_unguided"]) <= BAR


@torch.no_grad()
def test_the_middle_sized_head_answers_as_the_original():
    head = filled("DiT-B")
    noise, cognition = inputs(1)
    with np.load(DATA / "dit_b.npz") as found:
        expected = torch.from_numpy(found["guided_37"])
    assert furthest(head.guided(noise, torch.tensor([37]), cognition, GUIDANCE), expected) <= BAR


@pytest.mark.parametrize("time", reference.TIMES)
def test_noise_is_put_in_as_in_the_originals_training(answers, time):
    clean, noise = reference.drawn("clean", 2, 16, 7), inputs(2)[0]
    assert furthest(squared_cosine().noisy(clean, torch.full((2,), time), noise), answers[f"noisy_{time}"]) <= 1e-6


def test_sampling_visits_the_times_that_the_original_visits():
    schedule = squared_cosine()
    assert schedule.steps == HEADS["betas_steps"]
    assert schedule.sampling_times(SAMPLING_STEPS)[::-1] == HEADS["sampling_times"]


def test_a_number_of_sampling_steps_without_a_whole_stride_is_refused():
    with pytest.raises(ValueError, match="100 diffusion steps cannot be walked in 30 equal strides"):
        squared_cosine().sampling_times(30)


def test_sampling_finds_the_chunk_that_all_noise_points_away_from():
    clean = reference.drawn("clean", 1, 16, 7)
    schedule = squared_cosine()

    def noise_in(x, time):
        kept = schedule.kept[time][:, None, None].float()
        return (x - kept.sqrt() * clean) / (1 - kept).sqrt()

    start = inputs(1)[0]
    assert furthest(sample(noise_in, start, schedule), clean) <= 1e-4


def test_a_small_head_of_any_shape_takes_a_batch():
    shape = DiTShape(depth=1, width=8, heads=2, cognition=5, chunk=3, actions=4)
    said = DiT(shape)(torch.zeros(2, 3, 4), torch.zeros(2), torch.zeros(2, 5))
    assert said.shape == (2, 3, 4)
