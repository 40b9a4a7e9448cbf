"""Layers that a plan leaves out are not run and change nothing."""

from __future__ import annotations

import pytest
import torch

from actdistill_ros.policy.decoder import RoutedDecoder, causal_mask


@pytest.fixture
def decoder() -> RoutedDecoder:
    torch.manual_seed(0)
    return RoutedDecoder(width=32, heads=2, feed_forward=48, layers=4).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))


def present(tokens: torch.Tensor) -> torch.Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


def test_a_full_plan_equals_no_plan(decoder, tokens):
    with torch.no_grad():
        assert torch.equal(decoder(tokens, present(tokens)), decoder(tokens, present(tokens), [True] * 4))


def test_a_plan_runs_exactly_the_layers_it_names(decoder, tokens):
    called = []
    for i, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    decoder(tokens, present(tokens), [True, False, False, True])
    assert called == [0, 3]


def test_an_empty_plan_passes_the_residual_stream_unchanged(decoder, tokens):
    with torch.no_grad():
        assert torch.allclose(decoder(tokens, present(tokens), [False] * 4), decoder.norm(tokens))


def test_skipping_equals_a_decoder_that_lacks_those_layers(decoder, tokens):
    shorter = RoutedDecoder(width=32, heads=2, feed_forward=48, layers=2).eval()
    for i, kept in enumerate((0, 3)):
        shorter.layers[i].load_state_dict(decoder.layers[kept].state_dict())
    shorter.norm.load_state_dict(decoder.norm.state_dict())
    with torch.no_grad():
        skipped = decoder(tokens, present(tokens), [True, False, False, True])
        assert torch.allclose(skipped, shorter(tokens, present(tokens)), atol=1e-6)


def test_a_plan_of_another_depth_is_refused(decoder, tokens):
    with pytest.raises(ValueError, match="names 3 layers, the decoder has 4"):
        decoder(tokens, present(tokens), [True] * 3)


def test_padded_tokens_cannot_be_seen(decoder, tokens):
    mask = present(tokens)
    mask[:, 2] = False
    changed = tokens.clone()
    changed[:, 2] = 5.0
    with torch.no_grad():
        a, b = decoder(tokens, mask), decoder(changed, mask)
    assert torch.allclose(a[:, 3:], b[:, 3:], atol=1e-6)


def test_no_token_sees_a_later_one():
    mask = causal_mask(torch.ones(1, 4, dtype=torch.bool))[0, 0]
    assert torch.equal(mask, torch.ones(4, 4, dtype=torch.bool).tril())
