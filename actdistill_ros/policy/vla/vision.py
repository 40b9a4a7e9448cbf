"""The two vision towers of a Prismatic model, DINOv2 with registers and SigLIP, side by side on the channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


@dataclass(frozen=True)
class TowerShape:
    """A vision transformer as timm names and stores it.

    depth: blocks in the checkpoint; features are taken before the last of them. registers: learnt tokens beside the
    class token (DINOv2; 0: neither of them). layer_scale: each residual branch has a learnt factor per channel.
    pooled: the checkpoint also holds an attention pool, which features never pass.
    """

    width: int
    depth: int
    heads: int
    feed_forward: int
    registers: int = 0
    layer_scale: bool = False
    pooled: bool = False
    image: int = 224
    patch: int = 14

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return 1 + self.registers if self.registers else 0


DINOV2_LARGE = TowerShape(1024, 24, 16, 4096, registers=4, layer_scale=True)
SIGLIP_SO400M = TowerShape(1152, 27, 16, 4304, pooled=True)
TOWERS = {"vit_large_patch14_reg4_dinov2.lvd142m": DINOV2_LARGE, "vit_so400m_patch14_siglip_224": SIGLIP_SO400M}


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H) each
        seen = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, D/H)
        return self.proj(seen.transpose(1, 2).flatten(2))  # (B, N, D)


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class _Block(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(shape.width, eps=NORM_EPS) for _ in range(2))
        self.attn = _Attention(shape.width, shape.heads)
        self.mlp = _FeedForward(shape.width, shape.feed_forward)
        self.ls1, self.ls2 = (_LayerScale(shape.width) if shape.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))  # (B, N, D)
        return x + self.ls2(self.mlp(self.norm2(x)))  # (B, N, D)


class _PatchEmbedding(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # (B, P, D)


class Tower(nn.Module):
    """Patch features of the second-to-last block, without the final norm. The last block, the norm and the pool of the
    checkpoint have no part in them and are not made."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = _PatchEmbedding(shape)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.patches, shape.width))
        if shape.registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
            self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S), normalised for this tower. Returns (B, P, D)."""
        x = self.patch_embed(pixels) + self.pos_embed  # (B, P, D): class and register tokens have no position
        if self.shape.registers:
            first = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(x), -1, -1)  # (B, 1 + R, D)
            x = torch.cat([first, x], dim=1)  # (B, 1 + R + P, D)
        for block in self.blocks:
            x = block(x)
        return x[:, self.shape.prefix :]


class FusedVision(nn.Module):
    """Both towers on one image; one patch of the one beside the same patch of the other."""

    def __init__(self, dino: TowerShape, siglip: TowerShape) -> None:
        super().__init__()
        self.dino, self.siglip = Tower(dino), Tower(siglip)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 6, S, S), the image normalised for DINOv2, then for SigLIP. Returns (B, P, D1 + D2)."""
        return torch.cat([self.dino(pixels[:, :3]), self.siglip(pixels[:, 3:])], dim=-1)


def stored_shapes(shape: TowerShape) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of a tower's tensors in a checkpoint: those that features need, and those that they do not."""
    with torch.device("meta"):
        needed = {name: tuple(value.shape) for name, value in Tower(shape).state_dict().items()}
        last = {f"blocks.{shape.depth - 1}.{name}": tuple(v.shape) for name, v in _Block(shape).state_dict().items()}
    width, hidden = shape.width, shape.feed_forward
    spare = last | {"norm.weight": (width,), "norm.bias": (width,)}
    if shape.pooled:
        layers = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width)}
        layers |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        spare |= {f"attn_pool.{name}.weight": size for name, size in layers.items()}
        spare |= {f"attn_pool.{name}.bias": size[:1] for name, size in layers.items()}
        spare |= {"attn_pool.latent": (1, 1, width), "attn_pool.norm.weight": (width,), "attn_pool.norm.bias": (width,)}
    return needed, spare
