"""One gate per decoder layer, scored before the first layer runs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from actdistill_ros.policy import budgets


class Router(nn.Module):
    """Gates from pooled vision, language and state (ActDistill Eq. 6), with the budget in place of the bias; if made
    for them, from the actions commanded last too (see `recent`): what one observation cannot show.

    score_l = w_l · z + SHARPNESS · (budget − place_l), gate_l = sigmoid(score_l). `place` says at which budget a layer
    becomes worth running; it starts from what leaving the layer out costs the teacher, so an untrained router
    already is the best fixed plan of every budget, and training only has to find where the input matters.

    See `budgets.Budgeted` for place, always, budgets, thresholds and shares.
    """

    def __init__(self, width: int, hidden: int, layers: int, vision_tokens: int, recent: tuple[int, int] = (0, 0)):
        """recent: (N, A + 1), how many actions it is told and of how many numbers each."""
        super().__init__()
        self.vision_tokens = vision_tokens
        self.vision, self.vision_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.language, self.language_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.state = nn.Linear(width, hidden)
        told = math.prod(recent)
        self.recent = nn.Sequential(nn.Flatten(), nn.Linear(told, hidden), nn.GELU()) if told else None
        self.gate = nn.Linear((6 if told else 5) * hidden, layers, bias=False)
        nn.init.zeros_(self.gate.weight)
        budgets.prepare(self, layers)

    def forward(self, tokens: Tensor, present: Tensor, budget: Tensor, recent: Tensor | None = None) -> Tensor:
        """tokens: (B, N, D) what the decoder is given: words, images, state, readout; present: (B, N) bool;
        budget: (B,); recent: (B, R, A + 1) if it was made for recent actions. Returns scores (B, L)."""
        return self.score(self.evidence(tokens, present, recent), budget)

    def score(self, evidence: Tensor, budget: Tensor) -> Tensor:
        """evidence: (B, L); budget: (B,). The budget moves all scores alike: more of it takes no layer away."""
        return evidence + self.shift(budget)  # (B, L)

    def shift(self, budget: Tensor) -> Tensor:
        """What the budget (B,) adds to the scores, (B, L)."""
        return budgets.shift(self, budget)

    def evidence(self, tokens: Tensor, present: Tensor | None = None, recent: Tensor | None = None) -> Tensor:
        """What speaks for each layer, whatever the budget; (B, L). present: None (faster) if nothing is padded."""
        words = tokens.shape[1] - self.vision_tokens - 2
        v = self.vision_norm(self.vision(tokens[:, words:-2]))  # (B, V, R)
        t = self.language_norm(self.language(tokens[:, :words]))  # (B, T, R)
        said = budgets.pooled(t, None if present is None else present[:, :words])  # (B, R) each
        done = () if self.recent is None else (self.recent(recent),)  # (B, R)
        z = torch.cat([v.mean(1), v.amax(1), *said, self.state(tokens[:, -2]), *done], dim=-1)  # (B, 5R or 6R)
        return self.gate(z)  # (B, L)

    def at(self, budget: float) -> tuple[float, float]:
        """The largest calibrated budget within this one, and its threshold.

        Raises ValueError if the budget is not within what was calibrated.
        """
        return budgets.at(self, budget)

    def calibrate(self, evidence: Tensor) -> None:
        """See `budgets.calibrate`. evidence: (S, L) of inputs that nothing was trained on."""
        budgets.calibrate(self, evidence)
