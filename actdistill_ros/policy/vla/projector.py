"""From what the vision towers see to what the language model reads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4  # the first layer widens the fused features by this much


class Projector(nn.Module):
    """Three linear layers with two GELUs between them, for fused towers."""

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(seen, EXPANSION * seen)
        self.fc2 = nn.Linear(EXPANSION * seen, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, P, D1 + D2). Returns (B, P, D)."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
