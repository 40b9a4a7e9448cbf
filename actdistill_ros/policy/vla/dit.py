"""CogACT's action head: a diffusion transformer (DiT) that says which noise is in a chunk of actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 256  # sines and cosines that a diffusion time is written in
LONGEST_PERIOD = 1e4
MLP_RATIO = 4
NORM_EPS = 1e-6


@dataclass(frozen=True)
class DiTShape:
    """cognition: width of the feature that conditions it, the language model's; chunk: actions; actions: values of
    each."""

    depth: int
    width: int
    heads: int
    cognition: int = 4096
    chunk: int = 16
    actions: int = 7


SIZES = {"DiT-S": DiTShape(6, 384, 4), "DiT-B": DiTShape(12, 768, 12), "DiT-L": DiTShape(24, 1024, 16)}


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, W/H) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # (B, N, W)


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    """Pre-norm transformer block. The norms learn nothing: the condition comes as a token, not as a scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = _Attention(width, heads), _FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(_norm(x))  # (B, N, W)
        return x + self.mlp(_norm(x))  # (B, N, W)


class _Linear(nn.Module):
    """One layer under the name `linear`, as the published weights have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class _Condition(_Linear):
    """uncondition: what stands for "no cognition feature" (classifier-free guidance)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.uncondition = nn.Parameter(torch.empty(1, inputs))
        nn.init.normal_(self.uncondition, std=0.02)


class _Time(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        return self.mlp(time_features(time).to(self.mlp[0].weight.dtype))  # (B, W)


class DiT(nn.Module):
    """Names and shapes of the parameters are those of `action_model.net` in a CogACT checkpoint. `history_embedder`
    is in it, and unused there as here."""

    def __init__(self, shape: DiTShape) -> None:
        super().__init__()
        self.shape = shape
        self.x_embedder = _Linear(shape.actions, shape.width)
        self.history_embedder = _Linear(shape.actions, shape.width)
        self.t_embedder = _Time(shape.width)
        self.z_embedder = _Condition(shape.cognition, shape.width)
        self.positional_embedding = nn.Parameter(torch.randn(1 + shape.chunk, shape.width) * shape.width**-0.5)
        self.blocks = nn.ModuleList(_Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.final_layer = _Linear(shape.width, shape.actions)

    def forward(self, noisy: Tensor, time: Tensor, cognition: Tensor) -> Tensor:
        """noisy: (B, K, A) normalised actions with noise; time: (B,) diffusion time; cognition: (B, D).

        Returns the noise in them (B, K, A).
        """
        first = self.t_embedder(time) + self.z_embedder(cognition)  # (B, W)
        x = torch.cat([first[:, None], self.x_embedder(noisy)], dim=1) + self.positional_embedding  # (B, 1 + K, W)
        for block in self.blocks:
            x = block(x)
        return self.final_layer(_norm(x))[:, 1:]  # (B, K, A)

    def guided(self, noisy: Tensor, time: Tensor, cognition: Tensor, guidance: float) -> Tensor:
        """The noise, moved `guidance` times as far from the unconditional answer as the condition alone moves it.

        Every action and every one of its values is guided. guidance: 1 is the conditional answer, at half the cost.
        """
        if guidance == 1.0:
            return self(noisy, time, cognition)
        nothing = self.without(cognition, torch.ones(len(cognition), dtype=torch.bool, device=cognition.device))
        both = self(noisy.repeat(2, 1, 1), time.repeat(2), torch.cat([cognition, nothing]))  # (2B, K, A)
        told, untold = both.chunk(2)  # (B, K, A) each
        return untold + guidance * (told - untold)

    def without(self, cognition: Tensor, dropped: Tensor) -> Tensor:
        """The condition (B, D), with "no condition" where dropped (B,) bool: what guidance compares with, and what
        training has to show the head now and then for it."""
        return torch.where(dropped[:, None], self.z_embedder.uncondition.to(cognition), cognition)


def time_features(time: Tensor) -> Tensor:
    """(B,) times to their cosines and sines, periods 2π … 2π · 10⁴ in geometric steps; (B, FREQUENCIES) float32."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) / half * steps)  # (B, F/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
