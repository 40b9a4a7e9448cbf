"""Graph-structured encapsulation: what a decoder layer's tokens say about the action, as one vector per layer.

Every token of a layer is a node. Symbols follow ActDistill (arXiv 2511.18082); where the published formula is not safe
in floating point, or loses nodes, the docstring says what holds here instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the heads; graph: False replaces the graph by the mean over tokens (an ablation)."""

    bottleneck: int = 48
    semantic: int = 64
    neighbours: int = 8
    attention_heads: int = 2
    graph: bool = True


class LayerHeads(nn.Module):
    """One graph head and one action probe per decoder layer, each with weights of its own, run together."""

    def __init__(self, layers: int, width: int, chunk: int, action_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.chunk, self.config, inner = chunk, config, config.bottleneck
        self.norm = StackedNorm(layers, width)
        self.narrow = StackedLinear(layers, width, inner)
        if config.graph:
            self.affinity = Affinity(layers, inner, config.neighbours)
            self.relate = nn.ModuleList(GraphAttention(layers, inner, config.attention_heads) for _ in range(2))
            self.pool = StackedLinear(layers, inner, 1)
        self.semantic = nn.Sequential(
            StackedLinear(layers, inner, inner), nn.GELU(), StackedLinear(layers, inner, config.semantic)
        )
        self.probe = nn.Sequential(
            StackedLinear(layers, config.semantic, 2 * config.semantic),
            nn.GELU(),
            StackedLinear(layers, 2 * config.semantic, chunk * action_dim),
        )

    def forward(self, hidden: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: L of (B, N, D), the residual stream after each layer; present: (B, N) bool, False where padded.

        Returns the semantic vectors s (L, B, S) and the chunk that each layer's says, (L, B, K, A).
        """
        x = self.narrow(self.norm(torch.stack(hidden)))  # (L, B, N, d)
        if self.config.graph:
            prior = self.affinity(x, present)  # (L, B, N, N)
            for layer in self.relate:
                x = layer(x, prior)  # (L, B, N, d)
            weight = self.pool(x).float().masked_fill(~present[:, :, None], -math.inf).softmax(2)  # (L, B, N, 1)
        else:
            weight = (present.float() / present.sum(1, keepdim=True))[None, :, :, None]  # (1, B, N, 1)
        s = self.semantic((weight * x).sum(2))  # (L, B, S)
        return s, self.probe(s).unflatten(-1, (self.chunk, -1))


class Affinity(nn.Module):
    """Learned affinity between tokens, kept for the k nearest of each; Eq. 1 and 2, in logarithms.

    log A_ij = ⟨W_φ h_i, W_ψ h_j⟩ / √d: unscaled and exponentiated it overflows at the sizes of a language model.
    Weights are normalised over what is kept, and a token always keeps itself, so that no token is without a neighbour.
    """

    def __init__(self, layers: int, width: int, neighbours: int) -> None:
        super().__init__()
        self.query = StackedLinear(layers, width, width, bias=False)  # W_φ
        self.key = StackedLinear(layers, width, width, bias=False)  # W_ψ
        self.neighbours = neighbours

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x: (L, B, N, d). Returns log ŵ (L, B, N, N); −inf where there is no edge i ← j."""
        n = x.shape[2]
        itself = torch.eye(n, dtype=torch.bool, device=x.device)
        logits = (self.query(x) @ self.key(x).transpose(2, 3)).float() / math.sqrt(x.shape[-1])  # (L, B, N, N)
        logits = logits.masked_fill(~(present[:, None, :] | itself), -math.inf)
        k = min(self.neighbours, n - 1) + 1  # the k nearest and itself
        nearest = logits.detach().masked_fill(itself, math.inf).topk(k, dim=-1).indices  # (L, B, N, k)
        edges = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, nearest, True)
        return logits.masked_fill(~edges, -math.inf).log_softmax(-1)


class GraphAttention(nn.Module):
    """Attention over the edges with the affinity as prior; a token gathers from its nearest and keeps what it was.

    α_ij = softmax_j(log ŵ_ij + LeakyReLU(a·[U h_i ‖ U h_j])), out_i = h_i + ReLU(Σ_j α_ij U h_j), normalised.
    """

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.u = StackedLinear(layers, width, width, bias=False)
        self.a_to = nn.Parameter(torch.randn(layers, 1, 1, heads, width // heads) * 0.1)
        self.a_from = nn.Parameter(torch.randn(layers, 1, 1, heads, width // heads) * 0.1)
        self.norm = StackedNorm(layers, width)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """x: (L, B, N, d); prior: (L, B, N, N) log weights. Returns (L, B, N, d)."""
        u = self.u(x).unflatten(-1, (self.heads, -1))  # (L, B, N, H, d/H)
        to = (u * self.a_to).sum(-1).permute(0, 1, 3, 2)  # (L, B, H, N)
        source = (u * self.a_from).sum(-1).permute(0, 1, 3, 2)  # (L, B, H, N)
        score = F.leaky_relu(to[..., :, None] + source[..., None, :], 0.2)  # (L, B, H, N, N)
        attention = (score.float() + prior[:, :, None]).softmax(-1)  # (L, B, H, N, N)
        gathered = attention.to(u.dtype) @ u.transpose(2, 3)  # (L, B, H, N, d/H)
        return self.norm(x + F.relu(gathered.transpose(2, 3).flatten(3)))  # (L, B, N, d)


class StackedLinear(nn.Module):
    """One linear map per decoder layer, all in one matrix product."""

    def __init__(self, layers: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(layers, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(layers, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1, -2)  # (L, M, inputs)
        y = torch.bmm(flat, self.weight) if self.bias is None else torch.baddbmm(self.bias, flat, self.weight)
        return y.unflatten(1, x.shape[1:-1])  # (L, …, outputs)


class StackedNorm(nn.Module):
    """Layer normalisation with scale and shift of each decoder layer's own."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(layers, 1, 1, width))
        self.shift = nn.Parameter(torch.zeros(layers, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.scale + self.shift  # (L, B, N, D)
