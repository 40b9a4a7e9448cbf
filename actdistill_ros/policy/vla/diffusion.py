"""Noise put into a chunk of actions, and taken out again (DDPM, Ho et al. 2020; DDIM, Song et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TRAINING_STEPS = 100
SAMPLING_STEPS = 10
GUIDANCE = 1.5
_OFFSET = 0.008  # Nichol & Dhariwal 2021, eq. 17: the first step is not almost noiseless
_LARGEST_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """kept: (T,) float64, share of the signal's variance that is left at each diffusion time 0 … T − 1."""

    kept: Tensor

    @property
    def steps(self) -> int:
        return len(self.kept)

    def noisy(self, clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Normalised actions (B, K, A) at diffusion times (B,), with this noise (B, K, A)."""
        kept = self.kept.to(clean.device)[time][:, None, None]  # (B, 1, 1)
        return kept.sqrt().to(clean.dtype) * clean + (1 - kept).sqrt().to(clean.dtype) * noise

    def sampling_times(self, count: int) -> list[int]:
        """`count` diffusion times at an equal stride from 0 on, the noisiest first.

        Raises ValueError if no whole stride gives as many.
        """
        for stride in range(1, self.steps + 1):
            times = range(0, self.steps, stride)
            if len(times) == count:
                return list(times)[::-1]
        raise ValueError(f"{self.steps} diffusion steps cannot be walked in {count} equal strides; 10 is CogACT's own")


def squared_cosine(steps: int = TRAINING_STEPS) -> Schedule:
    """The schedule that CogACT was trained with (`squaredcos_cap_v2`)."""

    def signal(share: float) -> float:
        return math.cos((share + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - signal((i + 1) / steps) / signal(i / steps), _LARGEST_BETA) for i in range(steps)]
    return Schedule(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0))


@torch.no_grad()
def sample(
    noise_in: Callable[[Tensor, Tensor], Tensor], start: Tensor, schedule: Schedule, count: int = SAMPLING_STEPS
) -> Tensor:
    """A chunk of normalised actions (B, K, A) out of noise (B, K, A): DDIM without new noise (eta 0), not clipped.

    noise_in: what says which noise is in (B, K, A) at times (B,). Raises ValueError as `sampling_times` does.
    """
    times = schedule.sampling_times(count)
    x = start
    for now, later in zip(times, [*times[1:], None], strict=True):
        kept = float(schedule.kept[now])
        kept_later = 1.0 if later is None else float(schedule.kept[later])
        noise = noise_in(x, torch.full((len(x),), now, device=x.device))  # (B, K, A)
        clean = (x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)  # (B, K, A)
        x = math.sqrt(kept_later) * clean + math.sqrt(1 - kept_later) * noise  # (B, K, A)
    return x
