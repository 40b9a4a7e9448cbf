"""The language model's decoder, written so that each layer can be left out of a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from actdistill_ros.policy.cache import KeyValueCache

_CACHE = "cache" if "cache" in inspect.signature(LlamaAttention.forward).parameters else "past_key_values"


@dataclass(frozen=True)
class DecoderShape:
    """A Llama without its embeddings. Defaults are the bundled policies'; a checkpoint's own come from its config.

    key_value_heads: None for as many as `heads`. max_positions: longest sequence that `prefill` and `decode` take.
    """

    width: int
    heads: int
    feed_forward: int
    layers: int
    key_value_heads: int | None = None
    rms_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_positions: int = 512


class RoutedDecoder(nn.Module):
    """Llama layers run by a plan. A layer that the plan leaves out is not called, and the residual stream passes it
    unchanged."""

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        layers: int,
        key_value_heads: int | None = None,
        rms_eps: float = 1e-6,
        rope_theta: float = 10_000.0,
        max_positions: int = 512,
    ) -> None:
        """See `DecoderShape` for the arguments, and `of` to make a decoder from one."""
        super().__init__()
        config = LlamaConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads or heads,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            max_position_embeddings=max_positions,
            rms_norm_eps=rms_eps,
            rope_theta=rope_theta,
            attn_implementation="sdpa",
        )
        self.max_positions = max_positions
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(layers))
        self.norm = LlamaRMSNorm(width, eps=config.rms_norm_eps)
        self.rotary = LlamaRotaryEmbedding(config)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    @classmethod
    def of(cls, shape: DecoderShape) -> RoutedDecoder:
        return cls(**asdict(shape))

    def forward(self, tokens: Tensor, present: Tensor | None, plan: Sequence[bool] | None = None) -> Tensor:
        """tokens: (B, N, D); present: (B, N) bool, False where padded, None (faster) if nothing is;
        plan: one bool per layer, None runs all.

        Returns the normalised residual stream (B, N, D). Raises ValueError if the plan's length is not the depth.
        """
        if plan is not None:
            self._check(plan)
        shared = self._shared(tokens, present)
        x = tokens
        for i, layer in enumerate(self.layers):
            if plan is None or plan[i]:
                x = _hidden(layer(x, **shared))  # (B, N, D)
        return self.norm(x)

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, present: Tensor | None = None, plan: Sequence[bool] | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """What `forward` does, keeping keys and values of the layers that the plan runs, and of no other.

        The plan is decided before layer 0 and holds for every `decode` with the returned cache.

        Returns the normalised residual stream (B, N, D) and the cache. Raises ValueError if the plan's length is not
        the depth or N is more than `max_positions`.
        """
        executed = [True] * len(self.layers) if plan is None else plan
        self._check(executed)
        cache = KeyValueCache(executed, present)
        return self._advance(tokens, self._shared(tokens, present), cache), cache

    @torch.no_grad()
    def decode(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """The next token (B, 1, D) through the layers of the cache's plan; returns it normalised, (B, 1, D).

        The cache grows by this token. Raises ValueError if it is more than one token or one too many for the decoder.
        """
        if token.shape[1] != 1:
            raise ValueError(f"decode takes one token at a time, (B, 1, D); got {tuple(token.shape)}")
        mask = None
        if cache.present is not None:
            mask = torch.cat([cache.present, cache.present.new_ones(len(token), 1)], dim=1)[:, None, None]  # (B,1,1,N)
        positions = torch.full((1, 1), cache.length, device=token.device)
        return self._advance(token, self._given(token, positions, mask), cache)

    def _advance(self, x: Tensor, shared: dict, cache: KeyValueCache) -> Tensor:
        """x (B, n, D) through the executed layers, each adding its keys and values to the cache."""
        added = x.shape[1]
        if cache.length + added > self.max_positions:
            raise ValueError(f"{cache.length + added} tokens are more than the {self.max_positions} the decoder takes")
        for layer, runs in zip(self.layers, cache.executed, strict=True):
            if runs:
                x = _hidden(layer(x, **shared, **{_CACHE: cache}))  # (B, n, D)
        cache.advance(added)
        return self.norm(x)

    def _check(self, plan: Sequence[bool]) -> None:
        if len(plan) != len(self.layers):
            raise ValueError(f"the plan names {len(plan)} layers, the decoder has {len(self.layers)}")

    def trace(
        self,
        tokens: Tensor,
        present: Tensor,
        gates: Tensor | None = None,
        run: Callable[..., Tensor] | None = None,
    ) -> list[Tensor]:
        """The residual stream after each layer, L of (B, N, D), not normalised; for training.

        gates: (B, L), 1 runs a layer and 0 passes by it, as the plan does: x + g · (layer(x) − x). None runs all.
        A layer whose gates are constants and all 0 is not called. run: calls a function with its arguments; for what
        keeps less for the backward pass.
        """
        run = run or _directly
        shared = self._shared(tokens, present)
        x, after = tokens, []
        for i, layer in enumerate(self.layers):
            gate = None if gates is None else gates[:, i, None, None]  # (B, 1, 1)
            if gate is None:
                x = run(_call, layer, x, shared)  # (B, N, D)
            elif gate.requires_grad or bool(gate.any()):
                x = x + gate * (run(_call, layer, x, shared) - x)  # (B, N, D)
            after.append(x)
        return after

    def _shared(self, tokens: Tensor, present: Tensor | None) -> dict:
        """What every layer is given for a whole sequence: the mask (B, 1, N, N) and the positions."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # (1, N)
        return self._given(tokens, positions, None if present is None else causal_mask(present))

    def _given(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> dict:
        """mask: None lets attention be causal by itself, which needs no mask in memory."""
        rotary = self.rotary(tokens, positions)
        return {"attention_mask": mask, "position_ids": positions, "position_embeddings": rotary}


def causal_mask(present: Tensor) -> Tensor:
    """(B, N) presence to a (B, 1, N, N) bool mask, True where attention is allowed; a padded row sees itself only."""
    n = present.shape[1]
    lower = torch.ones(n, n, dtype=torch.bool, device=present.device).tril()
    allowed = lower & present[:, None, :]  # (B, N, N)
    return (allowed | torch.eye(n, dtype=torch.bool, device=present.device))[:, None]


def _directly(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    return function(*arguments)


def _call(layer: nn.Module, x: Tensor, shared: dict) -> Tensor:
    return _hidden(layer(x, **shared))


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
