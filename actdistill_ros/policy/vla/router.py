"""One gate per decoder layer of a published VLA, scored before the first layer runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actdistill_ros.policy import budgets


class VlaRouter(nn.Module):
    """Gates from pooled vision and language (ActDistill Eq. 6), with the budget in place of the bias, as `Router` has
    them: score_l = w_l · z + SHARPNESS · (budget − place_l).

    Tokens are what a Prismatic model's decoder is given: BOS, patches, the rest of the prompt. Patches and words differ
    a hundredfold in size there, so each token is first scaled to unit mean square, as the decoder's layers scale it.
    Computed in float32 whatever the tokens' type: a threshold decides between scores that differ little.

    See `budgets.Budgeted` for place, always, budgets, thresholds and shares.
    """

    def __init__(self, width: int, hidden: int, layers: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.vision, self.vision_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.language, self.language_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.gate = nn.Linear(4 * hidden, layers, bias=False)
        nn.init.zeros_(self.gate.weight)
        budgets.prepare(self, layers)

    def forward(self, tokens: Tensor, present: Tensor | None, budget: Tensor) -> Tensor:
        """tokens: (B, N, D); present: (B, N) bool, None (faster) if nothing is padded; budget: (B,). Returns scores
        (B, L)."""
        return self.score(self.evidence(tokens, present), budget)

    def score(self, evidence: Tensor, budget: Tensor) -> Tensor:
        """evidence: (B, L); budget: (B,)."""
        return evidence + self.shift(budget)  # (B, L)

    def shift(self, budget: Tensor) -> Tensor:
        """What the budget (B,) adds to the scores, (B, L)."""
        return budgets.shift(self, budget)

    def evidence(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """What speaks for each layer, whatever the budget; (B, L) float32. tokens, present: see `forward`."""
        with torch.autocast(tokens.device.type, enabled=False):
            seen, read = tokens[:, 1 : 1 + self.patches], tokens[:, 1 + self.patches :]
            v = self.vision_norm(self.vision(_unit(seen)))  # (B, P, R)
            t = self.language_norm(self.language(_unit(read)))  # (B, T − 1, R)
            said = budgets.pooled(t, None if present is None else present[:, 1 + self.patches :])  # (B, R) each
            z = torch.cat([*budgets.pooled(v, None), *said], dim=-1)  # (B, 4R)
            return self.gate(z)  # (B, L)

    def at(self, budget: float) -> tuple[float, float]:
        """The largest calibrated budget within this one, and its threshold.

        Raises ValueError if the budget is not within what was calibrated.
        """
        return budgets.at(self, budget)

    def calibrate(self, evidence: Tensor) -> None:
        """See `budgets.calibrate`. evidence: (S, L) of inputs that nothing was trained on."""
        budgets.calibrate(self, evidence)


def _unit(tokens: Tensor) -> Tensor:
    """(B, N, D) of any type to float32 of mean square 1."""
    return F.rms_norm(tokens.float(), tokens.shape[-1:], eps=1e-12)
