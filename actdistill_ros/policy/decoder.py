"""The language model's decoder, written so that each layer can be left out of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding


class RoutedDecoder(nn.Module):
    """Llama layers run by a plan. A layer that the plan leaves out is not called, and the residual stream passes it
    unchanged."""

    def __init__(self, width: int, heads: int, feed_forward: int, layers: int) -> None:
        super().__init__()
        config = LlamaConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            max_position_embeddings=512,
            attn_implementation="sdpa",
        )
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(layers))
        self.norm = LlamaRMSNorm(width, eps=config.rms_norm_eps)
        self.rotary = LlamaRotaryEmbedding(config)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, present: Tensor, plan: Sequence[bool] | None = None) -> Tensor:
        """tokens: (B, N, D); present: (B, N) bool, False where padded; plan: one bool per layer, None runs all.

        Returns the normalised residual stream (B, N, D). Raises ValueError if the plan's length is not the depth.
        """
        if plan is not None and len(plan) != len(self.layers):
            raise ValueError(f"the plan names {len(plan)} layers, the decoder has {len(self.layers)}")
        shared = self._shared(tokens, present)
        x = tokens
        for i, layer in enumerate(self.layers):
            if plan is None or plan[i]:
                x = _hidden(layer(x, **shared))  # (B, N, D)
        return self.norm(x)

    def trace(self, tokens: Tensor, present: Tensor, gates: Tensor | None = None) -> list[Tensor]:
        """The residual stream after each layer, L of (B, N, D), not normalised; for training.

        gates: (B, L), 1 runs a layer and 0 passes by it, as the plan does: x + g · (layer(x) − x). None runs all.
        A layer whose gates are constants and all 0 is not called.
        """
        shared = self._shared(tokens, present)
        x, after = tokens, []
        for i, layer in enumerate(self.layers):
            gate = None if gates is None else gates[:, i, None, None]  # (B, 1, 1)
            if gate is None:
                x = _hidden(layer(x, **shared))  # (B, N, D)
            elif gate.requires_grad or bool(gate.any()):
                x = x + gate * (_hidden(layer(x, **shared)) - x)  # (B, N, D)
            after.append(x)
        return after

    def _shared(self, tokens: Tensor, present: Tensor) -> dict:
        """What every layer is given: the mask (B, 1, N, N) and the positions."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # (1, N)
        rotary = self.rotary(tokens, positions)
        return {
            "attention_mask": causal_mask(present),
            "position_ids": positions,
            "position_embeddings": rotary,
        }


def causal_mask(present: Tensor) -> Tensor:
    """(B, N) presence to a (B, 1, N, N) bool mask, True where attention is allowed; a padded row sees itself only."""
    n = present.shape[1]
    lower = torch.ones(n, n, dtype=torch.bool, device=present.device).tril()
    allowed = lower & present[:, None, :]  # (B, N, N)
    return (allowed | torch.eye(n, dtype=torch.bool, device=present.device))[:, None]


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
