"""What heads of published VLAs are trained on: words that are actions (OpenVLA), noise in actions (CogACT).

All scalars. `losses.py` has what layers are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from actdistill_ros.policy.vla.diffusion import Schedule
from actdistill_ros.policy.vla.dit import DiT

DROPPED = 0.1  # share of samples whose condition is withheld, so that guidance has something to compare with
REPEATS = 4  # draws of noise per sample: the head is small beside the model that conditions it


def words(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the words that should follow. logits: (B, T, V) of the words before; ids: (B, T), for OpenVLA
    seven actions and the end of the sentence."""
    return F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())


def bins(student: Tensor, teacher: Tensor, first: int, last: int, temperature: float = 1.0) -> Tensor:
    """How far the student's choice among the action words is from the teacher's: KL(teacher ‖ student), mean over the
    words said, times the temperature squared so that its gradient keeps its size (Hinton et al. 2015).

    student, teacher: (B, T, V) logits where actions are said. first, last: ids of the action words, both among them
    (`ActionBins`: vocabulary − count … vocabulary − 1). What the models think of other words is nobody's business: a
    student may not say them.
    """
    among = slice(first, last + 1)
    said, wanted = (F.log_softmax(x[..., among].float() / temperature, dim=-1) for x in (student, teacher))  # (B, T, C)
    return temperature**2 * F.kl_div(said.flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Draws:
    """Noise for R draws of each of B samples, draw by draw: time (R·B,), noise (R·B, K, A), dropped (R·B,) bool."""

    time: Tensor
    noise: Tensor
    dropped: Tensor

    @property
    def count(self) -> int:
        return len(self.time)


def draw(
    clean: Tensor, schedule: Schedule, generator: torch.Generator, repeats: int = REPEATS, dropped: float = DROPPED
) -> Draws:
    """clean: (B, K, A) actions that the noise is for. generator: on the CPU; the same one draws the same anywhere."""
    count = repeats * len(clean)
    time = torch.randint(0, schedule.steps, (count,), generator=generator)
    noise = torch.randn(count, *clean.shape[1:], generator=generator)
    withheld = torch.rand(count, generator=generator) < dropped
    return Draws(time.to(clean.device), noise.to(clean), withheld.to(clean.device))


def noise_error(head: DiT, schedule: Schedule, clean: Tensor, cognition: Tensor, draws: Draws) -> Tensor:
    """CogACT's training loss: mean squared error of the noise that the head sees in noisy actions.

    clean: (B, K, A) normalised actions; cognition: (B, D). Raises ValueError if the draws are not for this batch.
    """
    return (_seen(head, schedule, clean, cognition, draws) - draws.noise).square().mean()


def noise_distilled(
    student: DiT, teacher: DiT, schedule: Schedule, clean: Tensor, cognition: tuple[Tensor, Tensor], draws: Draws
) -> Tensor:
    """Mean squared difference between the noise that the student's head and the teacher's see in the same actions,
    each under its own cognition feature: (student's, teacher's), (B, D) both. The teacher is not trained."""
    return noise_terms(student, teacher, schedule, clean, cognition, draws)[1]


def noise_terms(
    student: DiT, teacher: DiT, schedule: Schedule, clean: Tensor, cognition: tuple[Tensor, Tensor], draws: Draws
) -> tuple[Tensor, Tensor]:
    """`noise_error` of the student and `noise_distilled`, for little more than the price of one of them."""
    with torch.no_grad():
        wanted = _seen(teacher, schedule, clean, cognition[1], draws)  # (R·B, K, A)
    seen = _seen(student, schedule, clean, cognition[0], draws)  # (R·B, K, A)
    return (seen - draws.noise).square().mean(), (seen - wanted).square().mean()


def _seen(head: DiT, schedule: Schedule, clean: Tensor, cognition: Tensor, draws: Draws) -> Tensor:
    repeats, odd = divmod(draws.count, len(clean))
    if odd or not repeats:
        raise ValueError(f"{draws.count} draws are not a whole number for each of {len(clean)} samples; draw() anew")
    noisy = schedule.noisy(clean.repeat(repeats, 1, 1), draws.time, draws.noise)  # (R·B, K, A)
    return head(noisy, draws.time, head.without(cognition.repeat(repeats, 1), draws.dropped))  # (R·B, K, A)
