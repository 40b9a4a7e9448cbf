"""CogACT: a Prismatic vision-language model whose last hidden state conditions a diffusion head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from actdistill_ros.contract.contract import Statistics
from actdistill_ros.contract.preprocess import denormalise
from actdistill_ros.policy.vla.diffusion import GUIDANCE, SAMPLING_STEPS, sample, squared_cosine
from actdistill_ros.policy.vla.dit import DiT
from actdistill_ros.policy.vla.openvla import Prismatic

GRIPPER = 6
_OPEN_FROM = 0.5  # of the normalised value; the published models are trained on 0 and 1


class CogACT(nn.Module):
    """The head keeps to float32 whatever the vision-language model is held in, as in the published evaluation."""

    def __init__(self, vlm: Prismatic, head: DiT) -> None:
        super().__init__()
        self.vlm, self.head = vlm, head
        self.schedule = squared_cosine()

    def cognition(self, tokens: Tensor, plan: Sequence[bool] | None = None) -> Tensor:
        """The last token's normalised hidden state, (B, D) float32. tokens: (B, N, D), not padded; the last is the
        end-of-sentence word (`PromptReader.cognition_prompt`). Raises ValueError if the plan's length is not the
        depth."""
        return self.vlm.decoder(tokens, None, plan)[:, -1].float()

    def denoise(
        self, cognition: Tensor, noise: Tensor, guidance: float = GUIDANCE, count: int = SAMPLING_STEPS
    ) -> Tensor:
        """Normalised actions (B, K, A) out of noise (B, K, A), not clipped. cognition: (B, D); guidance: 1 for none;
        count: sampling steps. Raises ValueError if the schedule cannot be walked in so many."""
        return sample(lambda x, time: self.head.guided(x, time, cognition, guidance), noise, self.schedule, count)


def actions_of(normalised: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Samples (K, A) to actions in the training data's own convention: clipped to −1 … 1, the gripper 0 or 1 by its
    normalised value, then the range of the data put back."""
    clipped = np.clip(np.asarray(normalised, dtype=float), -1.0, 1.0)
    clipped[:, GRIPPER] = clipped[:, GRIPPER] >= _OPEN_FROM
    return denormalise(clipped, statistics)
