"""The end of a published VLA, as it is taught and compared: words that are actions, or noise in actions."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from actdistill_ros.distill import vla_losses
from actdistill_ros.distill.vla.samples import VlaBatch
from actdistill_ros.distill.vla_losses import Draws
from actdistill_ros.policy.vla.cogact import GRIPPER, CogACT
from actdistill_ros.policy.vla.diffusion import GUIDANCE, sample
from actdistill_ros.policy.vla.openvla import OpenVLA
from actdistill_ros.policy.vla.tokens import EOS, ActionBins

HEAD, WORDS = "head.", "lm_head."  # of these names in the checkpoint's model


@dataclass(frozen=True)
class Said:
    """actions: (B, K, 7) normalised; chosen: what either is or is not the same, words (B, 7) or gripper decisions
    (B, K)."""

    actions: np.ndarray
    chosen: np.ndarray


class ActionHead(Protocol):
    """name: prefix of its parameters in the checkpoint's model; words: how many action words follow the prompt in
    training; module: the teacher's. Other modules are a student's; features are what a module is given of the last
    layer."""

    name: str
    words: int
    module: nn.Module

    def student(self, full: bool) -> nn.Module:
        """The student's module: the teacher's own where it is not trained, else a float32 copy. full: train all."""

    def features(self, stream: Tensor, norm: nn.Module, last: Tensor) -> Tensor:
        """stream: (B, N, D) after the last layer; norm: the decoder's; last: (B,) place of the prompt's last word."""

    def draw(self, batch: VlaBatch, size: int, share: slice, seed: tuple[int, int]) -> Draws | None:
        """What is random of a step: drawn for a batch of `size`, of which `batch` is the share."""

    def terms(
        self, module: nn.Module, own: Tensor, taught: Tensor, batch: VlaBatch, draws: Draws | None
    ) -> dict[str, Tensor]:
        """Scalars, each a mean over the samples. task: the loss against the recorded actions; output: how far what
        `module` says of its own features is from what the teacher says of those that it taught."""

    def say(self, module: nn.Module, features: Tensor, batch: VlaBatch) -> Said:
        """What it would do, for samples like these."""


class WordHead:
    """OpenVLA's: seven words and the end of the sentence, each predicted from the recorded ones before it."""

    name, words = WORDS, 7

    def __init__(self, model: OpenVLA, bins: ActionBins) -> None:
        self.module, self._bins = model.lm_head, bins

    def student(self, full: bool) -> nn.Module:
        return deepcopy(self.module).float().requires_grad_(True) if full else self.module

    def features(self, stream: Tensor, norm: nn.Module, last: Tensor) -> Tensor:
        """(B, 8, D): where the seven words and the end are predicted."""
        places = last[:, None] + torch.arange(self.words + 1, device=last.device)  # (B, 8)
        return norm(stream[torch.arange(len(stream), device=last.device)[:, None], places])

    def draw(self, batch: VlaBatch, size: int, share: slice, seed: tuple[int, int]) -> None:
        return None

    def terms(self, module: nn.Module, own: Tensor, taught: Tensor, batch: VlaBatch, draws: None) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = _logits(self.module, taught[:, : self.words])  # (B, 7, V)
        said = _logits(module, own)  # (B, 8, V)
        end = torch.full_like(batch.words[:, :1], EOS)
        first, last = self._bins.vocabulary - self._bins.count, self._bins.vocabulary - 1
        return {
            "task": vla_losses.words(said, torch.cat([batch.words, end], dim=1)),
            "output": vla_losses.bins(said[:, : self.words], wanted, first, last),
        }

    @torch.no_grad()
    def say(self, module: nn.Module, features: Tensor, batch: VlaBatch) -> Said:
        """Each word after the recorded ones before it."""
        ids = _logits(module, features[:, : self.words]).argmax(-1).cpu().numpy()  # (B, 7)
        return Said(self._bins.decode(ids)[:, None], ids)


def _logits(lm_head: nn.Module, features: Tensor) -> Tensor:
    """(B, T, D) to (B, T, V), in the type of its weights."""
    return lm_head(features.to(lm_head.weight.dtype))


class NoiseHead:
    """CogACT's: the noise in a chunk, seen by a diffusion transformer that the last word's feature conditions."""

    name, words = HEAD, 0

    def __init__(self, model: CogACT) -> None:
        self.module, self._schedule = model.head, model.schedule

    def student(self, full: bool) -> nn.Module:
        """Trained either way: it is small beside the language model."""
        return deepcopy(self.module).requires_grad_(True)

    def features(self, stream: Tensor, norm: nn.Module, last: Tensor) -> Tensor:
        """(B, D) the cognition feature, float32."""
        return norm(stream[torch.arange(len(stream), device=last.device), last]).float()

    def draw(self, batch: VlaBatch, size: int, share: slice, seed: tuple[int, int]) -> Draws:
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([*seed, 3]).generate_state(1)[0]))
        whole = vla_losses.draw(batch.actions.new_empty(size, *batch.actions.shape[1:]), self._schedule, generator)
        parts = (x.unflatten(0, (-1, size))[:, share].flatten(0, 1) for x in (whole.time, whole.noise, whole.dropped))
        return Draws(*parts)

    def terms(self, module: nn.Module, own: Tensor, taught: Tensor, batch: VlaBatch, draws: Draws) -> dict[str, Tensor]:
        heads, features = (module, self.module), (own, taught)
        error, distance = vla_losses.noise_terms(*heads, self._schedule, batch.actions, features, draws)
        return {"task": error, "output": distance}

    @torch.no_grad()
    def say(self, module: nn.Module, features: Tensor, batch: VlaBatch) -> Said:
        """Sampled from the same noise, whichever module does it; as it would be un-normalised."""
        noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0)).to(batch.actions)
        actions = sample(lambda x, time: module.guided(x, time, features, GUIDANCE), noise, self._schedule)
        actions = actions.clamp(-1, 1).cpu().numpy()  # (B, K, 7)
        opens = actions[..., GRIPPER] >= 0.5
        actions[..., GRIPPER] = opens
        return Said(actions, opens)
