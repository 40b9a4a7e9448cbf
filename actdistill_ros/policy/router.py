"""One gate per decoder layer, scored before the first layer runs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SHARPNESS = 20.0  # how fast a gate opens as the budget passes the layer's place; a layer of 12 is 1.7 on this scale
LOWEST_BUDGET = 0.25
GRID = 76  # budgets 0.25, 0.26 … 1.0 that calibration finds a threshold for


class Router(nn.Module):
    """Gates from pooled vision, language and state (ActDistill Eq. 6), with the budget in place of the bias.

    score_l = w_l · z + SHARPNESS · (budget − place_l), gate_l = sigmoid(score_l). `place` says at which budget a layer
    becomes worth running; it starts from what leaving the layer out costs the teacher, so an untrained router
    already is the best fixed plan of every budget, and training only has to find where the input matters.

    always: layers that run whatever the score, (L,) bool. budgets, thresholds, shares: (GRID,) what `calibrate` found.
    """

    def __init__(self, width: int, hidden: int, layers: int, vision_tokens: int) -> None:
        super().__init__()
        self.vision_tokens = vision_tokens
        self.vision, self.vision_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.language, self.language_norm = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.state = nn.Linear(width, hidden)
        self.gate = nn.Linear(5 * hidden, layers, bias=False)
        self.place = nn.Parameter((torch.arange(layers) + 0.5) / layers)
        nn.init.zeros_(self.gate.weight)
        always = torch.zeros(layers, dtype=torch.bool)
        always[[0, -1]] = True
        self.register_buffer("always", always)
        self.register_buffer("budgets", torch.linspace(LOWEST_BUDGET, 1.0, GRID))
        self.register_buffer("thresholds", torch.zeros(GRID))
        self.register_buffer("shares", torch.zeros(GRID))

    def forward(self, tokens: Tensor, present: Tensor, budget: Tensor) -> Tensor:
        """tokens: (B, N, D) what the decoder is given: words, images, state, readout; present: (B, N) bool;
        budget: (B,). Returns scores (B, L)."""
        return self.score(self.evidence(tokens, present), budget)

    def score(self, evidence: Tensor, budget: Tensor) -> Tensor:
        """evidence: (B, L); budget: (B,). The budget moves all scores alike: more of it takes no layer away."""
        return evidence + self.shift(budget)  # (B, L)

    def shift(self, budget: Tensor) -> Tensor:
        """What the budget (B,) adds to the scores, (B, L)."""
        return SHARPNESS * (budget[:, None] - self.place)

    def evidence(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """What speaks for each layer, whatever the budget; (B, L). present: None (faster) if nothing is padded."""
        words = tokens.shape[1] - self.vision_tokens - 2
        v = self.vision_norm(self.vision(tokens[:, words:-2]))  # (B, V, R)
        t = self.language_norm(self.language(tokens[:, :words]))  # (B, T, R)
        said = (t.mean(1), t.amax(1)) if present is None else _pooled(t, present[:, :words, None])  # (B, R) each
        z = torch.cat([v.mean(1), v.amax(1), *said, self.state(tokens[:, -2])], dim=-1)  # (B, 5R)
        return self.gate(z)  # (B, L)

    def at(self, budget: float) -> tuple[float, float]:
        """The largest calibrated budget within this one, and its threshold.

        Raises ValueError if the budget is not within what was calibrated.
        """
        if not LOWEST_BUDGET - 1e-9 <= budget <= 1.0 + 1e-9:
            raise ValueError(f"budget {budget:g} is not in {LOWEST_BUDGET} … 1, which this student was calibrated for")
        i = min(GRID - 1, math.floor((budget - LOWEST_BUDGET) / (1.0 - LOWEST_BUDGET) * (GRID - 1) + 1e-6))
        return float(self.budgets[i]), float(self.thresholds[i])

    @torch.no_grad()
    def calibrate(self, evidence: Tensor) -> None:
        """Find each budget's threshold: the lowest under which these inputs run, on average, no more than the budget.

        evidence: (S, L) of inputs that nothing was trained on.
        """
        for i, budget in enumerate(self.budgets):
            # The very sum that a step computes: inputs may tie, and rounding would then decide for all of them.
            scores = self.score(evidence, budget.expand(len(evidence)))  # (S, L)
            self.thresholds[i] = threshold(scores, self.always, float(budget))
            self.shares[i] = ((scores > self.thresholds[i]) | self.always).float().mean()


def _pooled(t: Tensor, spoken: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest of the words that are there, (B, R) each. t: (B, T, R); spoken: (B, T, 1) bool."""
    mean = t.masked_fill(~spoken, 0.0).sum(1) / spoken.sum(1).clamp(min=1)
    return mean, t.masked_fill(~spoken, -1e4).amax(1)


def threshold(scores: Tensor, always: Tensor, budget: float) -> float:
    """Lowest value such that layers scoring above it, with those that always run, are at most `budget` of all.

    scores: (S, L); always: (L,) bool; −inf if everything may run.
    """
    free = scores[:, ~always].flatten()
    allowed = math.floor(budget * scores.numel() + 1e-6) - len(scores) * int(always.sum())
    if allowed >= len(free):
        return -math.inf
    if allowed < 0:
        return math.inf
    return float(free.sort(descending=True).values[allowed])
