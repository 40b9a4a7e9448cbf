"""One camera's image to a few tokens, each looking where the instruction makes it look."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4
SHARPNESS = 10.0  # a softmax that starts flat over hundreds of places learns to look very slowly


class FiLMBlock(nn.Module):
    """Residual convolution whose channels the instruction scales and shifts (Perez et al. 2018; RT-1 uses the same)."""

    def __init__(self, channels: int, language_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(8, channels)
        self.film = nn.Linear(language_dim, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, language: Tensor) -> Tensor:
        scale, shift = self.film(language)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return x + F.gelu(self.norm(self.conv(x)) * (1 + scale) + shift)  # (B, C, H, W)


class ImageEncoder(nn.Module):
    """Image to K tokens: each is a spatial softmax over the feature map, with the place it looks at made explicit."""

    def __init__(self, tokens: int, width: int, language_dim: int) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * PATCH * PATCH, 48)
        self.fine = FiLMBlock(48, language_dim)
        self.conv3 = nn.Conv2d(48, 96, 3, stride=2, padding=1)
        self.coarse = FiLMBlock(96, language_dim)
        self.fine_out = nn.Conv2d(48, width, 1)
        self.coarse_out = nn.Conv2d(96, width, 1)
        self.film = nn.Linear(language_dim, 2 * width)
        self.maps = nn.Conv2d(width, tokens, 1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, image: Tensor, language: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(image, PATCH).permute(0, 2, 3, 1)  # (B, S/4, S/4, 48)
        x = F.gelu(self.patch(patches)).permute(0, 3, 1, 2)  # (B, 48, S/4, S/4)
        fine = self.fine(x, language)
        coarse = F.gelu(self.conv3(fine))  # (B, 96, S/8, S/8)
        up = F.interpolate(
            self.coarse_out(self.coarse(coarse, language)), scale_factor=2, mode="bilinear", align_corners=False
        )
        scale, shift = self.film(language)[:, :, None, None].chunk(2, dim=1)
        features = F.gelu((self.fine_out(fine) + up) * (1 + scale) + shift)  # (B, W, S/4, S/4)
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would round places by millimetres
            features = features.float()
            attention = (SHARPNESS * self.maps(features)).flatten(2).softmax(-1)  # (B, K, P)
            seen = attention @ features.flatten(2).transpose(1, 2)  # (B, K, W)
            place = attention @ self._grid(features)  # (B, K, 2)
        return torch.cat([seen, place], dim=-1)  # (B, K, W + 2)

    @staticmethod
    def _grid(features: Tensor) -> Tensor:
        """Pixel coordinates in [−2, 2]; (P, 2)."""
        height, width = features.shape[-2:]
        y = torch.linspace(-2, 2, height, device=features.device, dtype=features.dtype)
        x = torch.linspace(-2, 2, width, device=features.device, dtype=features.dtype)
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)
