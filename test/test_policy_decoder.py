"""Layers that a plan leaves out are not run and change nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from actdistill_ros.policy.cache import SPARE
from actdistill_ros.policy.decoder import DecoderShape, RoutedDecoder, causal_mask

PLANS = tuple(itertools.product((True, False), repeat=4))  # all, first and last only, none among them


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


def grouped(**changes) -> RoutedDecoder:
    """A decoder whose key-value heads serve two query heads each, with other constants than the bundled policies'."""
    torch.manual_seed(0)
    shape = DecoderShape(32, 4, 48, 4, key_value_heads=2, rms_eps=1e-5, rope_theta=500.0)
    return RoutedDecoder.of(replace(shape, **changes)).eval()


@pytest.mark.parametrize("padded", (False, True))
@pytest.mark.parametrize("plan", PLANS)
def test_prefill_and_decode_equal_the_whole_sequence_at_once(tokens, plan, padded):
    decoder, mask = grouped(), present(tokens) if padded else None
    if padded:
        mask[0, 1] = mask[1, 2] = False
    hidden, cache = decoder.prefill(tokens[:, :4], mask if mask is None else mask[:, :4], plan)
    parts = [hidden, *(decoder.decode(tokens[:, i : i + 1], cache) for i in range(4, 7))]
    with torch.no_grad():
        assert torch.allclose(torch.cat(parts, dim=1), decoder(tokens, mask, plan), atol=1e-6)
    assert cache.length == 7


def test_nothing_padded_may_be_said_without_a_mask(decoder, tokens):
    with torch.no_grad():
        assert torch.allclose(decoder(tokens, None), decoder(tokens, present(tokens)), atol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_greedy_tokens_are_the_same_with_cache_and_without(plan):
    decoder = grouped()
    words = torch.randn(50, 32, generator=torch.Generator().manual_seed(2))
    prompt = words[torch.tensor([[3, 14, 15, 9, 2, 6]])]

    def cached() -> list[int]:
        hidden, cache = decoder.prefill(prompt, None, plan)
        said = [int((hidden[0, -1] @ words.T).argmax())]
        while len(said) < 2 * SPARE:
            said.append(int((decoder.decode(words[None, None, said[-1]], cache)[0, -1] @ words.T).argmax()))
        return said

    def whole() -> list[int]:
        said: list[int] = []
        while len(said) < 2 * SPARE:
            with torch.no_grad():
                hidden = decoder(torch.cat([prompt, words[said][None]], dim=1), None, plan)
            said.append(int((hidden[0, -1] @ words.T).argmax()))
        return said

    assert cached() == whole()


def test_only_executed_layers_have_a_cache(tokens):
    decoder, plan = grouped(), (True, False, False, True)
    called = []
    for i, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    _, cache = decoder.prefill(tokens, None, plan)
    assert cache.layers == (0, 3) and cache.executed == plan
    decoder.decode(tokens[:, :1], cache)
    assert called == [0, 3, 0, 3]


def test_the_full_shape_is_llamas(tokens):
    """Every constant of the shape reaches the layers: the same numbers as transformers' own model."""
    decoder = grouped()
    config = LlamaConfig(
        vocab_size=8, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        num_hidden_layers=4, rms_norm_eps=1e-5, max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    model = LlamaModel(config).eval()
    ours = {k: v for k, v in decoder.state_dict().items() if not k.startswith("rotary")}
    assert model.load_state_dict(ours, strict=False).missing_keys == ["embed_tokens.weight"]
    with torch.no_grad():
        assert torch.allclose(decoder(tokens, None), model(inputs_embeds=tokens).last_hidden_state, atol=1e-6)


def test_more_tokens_than_the_decoder_has_positions_for_are_refused(tokens):
    decoder = grouped(max_positions=7)
    _, cache = decoder.prefill(tokens)
    with pytest.raises(ValueError, match="8 tokens are more than the 7"):
        decoder.decode(tokens[:, :1], cache)
    with pytest.raises(ValueError, match="one token at a time"):
        decoder.decode(tokens, cache)


def test_the_bundled_shape_keeps_its_weights_names(decoder):
    layer = {f"layers.0.{name}.weight" for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
        "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
    )}  # fmt: skip
    names = set(decoder.state_dict())
    assert layer | {"norm.weight"} <= names and len(names) == 4 * len(layer) + 1
