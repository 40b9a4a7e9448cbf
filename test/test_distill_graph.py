"""Graph heads say what the equations say, and stay finite where the published formula does not."""

from __future__ import annotations

import math

import pytest
import torch

from actdistill_ros.distill.graph import Affinity, GraphAttention, HeadConfig, LayerHeads, StackedLinear

LAYERS, BATCH, TOKENS, WIDTH = 3, 2, 7, 16
SMALL = HeadConfig(bottleneck=8, semantic=6, neighbours=2)


@pytest.fixture
def hidden() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(BATCH, TOKENS, WIDTH, generator=generator) for _ in range(LAYERS)]


@pytest.fixture
def present() -> torch.Tensor:
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    mask[1, :3] = False
    return mask


def heads(config: HeadConfig = SMALL) -> LayerHeads:
    torch.manual_seed(1)
    return LayerHeads(LAYERS, WIDTH, chunk=4, action_dim=7, config=config)


def test_a_stacked_map_is_one_linear_map_per_layer():
    torch.manual_seed(0)
    stacked, x = StackedLinear(3, 4, 5), torch.randn(3, 2, 6, 4)
    for layer in range(3):
        expected = x[layer] @ stacked.weight[layer] + stacked.bias[layer]
        assert torch.allclose(stacked(x)[layer], expected, atol=1e-6)


def test_affinity_of_hand_computed_tokens_keeps_the_nearest_and_itself():
    affinity = Affinity(layers=1, width=4, neighbours=1)
    torch.nn.init.eye_(affinity.query.weight.data[0])
    torch.nn.init.eye_(affinity.key.weight.data[0])
    tokens = torch.tensor([[2.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 3.0, 0, 0]])[None, None]
    log_weight = affinity(tokens, torch.ones(1, 3, dtype=torch.bool))[0, 0].detach()
    # ⟨h_0, h⟩ / √4 = 2, 1, 0: token 0 keeps itself and token 1.
    both = math.exp(2) + math.exp(1)
    assert log_weight[0].exp() == pytest.approx([math.exp(2) / both, math.exp(1) / both, 0.0])
    assert log_weight[2].exp()[2] == pytest.approx(math.exp(4.5) / (math.exp(4.5) + 1))
    assert torch.isfinite(log_weight).sum(1).tolist() == [2, 2, 2]


def test_graph_attention_of_hand_computed_tokens_weighs_the_affinity_by_relation():
    attend = GraphAttention(layers=1, width=2, heads=1)
    torch.nn.init.eye_(attend.u.weight.data[0])
    attend.a_to.data.zero_()
    attend.a_from.data[..., 0], attend.a_from.data[..., 1] = 1.0, 0.0
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[None, None]
    prior = torch.log(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))[None, None]
    # Relation scores are 1 for token 0 and 0 for token 1.
    first = 0.75 * math.e / (0.75 * math.e + 0.25)
    second = math.e / (math.e + 1)
    mixed = torch.tensor([[1 + first, 2 * (1 - first)], [second, 2 + 2 * (1 - second)]])
    expected = torch.nn.functional.layer_norm(mixed, (2,))
    assert torch.allclose(attend(x, prior)[0, 0], expected, atol=1e-5)


def test_every_layer_gives_a_semantic_vector_and_a_whole_chunk(hidden, present):
    semantic, chunks = heads()(hidden, present)
    assert semantic.shape == (LAYERS, BATCH, 6) and chunks.shape == (LAYERS, BATCH, 4, 7)


@pytest.mark.parametrize("graph", [True, False])
def test_padded_tokens_change_nothing(hidden, present, graph):
    changed = [h.clone() for h in hidden]
    for h in changed:
        h[1, :3] = 50.0
    model = heads(HeadConfig(8, 6, 2, graph=graph))
    for a, b in zip(model(hidden, present), model(changed, present), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_values_and_gradients_are_finite_however_large_the_hidden_states(hidden, present, scale):
    model = heads()
    for parameter in model.affinity.parameters():
        parameter.data.mul_(100.0)
    semantic, chunks = model([h * scale for h in hidden], present)
    (semantic.square().sum() + chunks.square().sum()).backward()
    assert torch.isfinite(semantic).all() and torch.isfinite(chunks).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_graph_with_fewer_tokens_than_neighbours_is_complete(present):
    affinity = Affinity(1, 4, neighbours=8)
    log_weight = affinity(torch.randn(1, 1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    assert torch.isfinite(log_weight).all()


def test_layers_do_not_share_what_they_learn(hidden, present):
    model = heads()
    semantic, _ = model(hidden, present)
    semantic[1].sum().backward()
    assert all(p.grad is None or not p.grad[0].any() and not p.grad[2].any() for p in model.parameters())
