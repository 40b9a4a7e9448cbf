"""OpenVLA: a Prismatic vision-language model whose next words are the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from actdistill_ros.policy.decoder import DecoderShape, RoutedDecoder
from actdistill_ros.policy.vla.projector import Projector
from actdistill_ros.policy.vla.vision import DINOV2_LARGE, SIGLIP_SO400M, FusedVision, TowerShape

# Llama-2-7B without what a converted config leaves out because it is the library's default.
LLAMA2_7B = DecoderShape(4096, 32, 11008, 32, key_value_heads=32, rms_eps=1e-6, rope_theta=1e4, max_positions=2048)


@dataclass(frozen=True)
class PrismaticShape:
    """rows: of the embedding table, the tokenizer's words padded to a multiple of 64."""

    dino: TowerShape = DINOV2_LARGE
    siglip: TowerShape = SIGLIP_SO400M
    decoder: DecoderShape = LLAMA2_7B
    rows: int = 32064

    @property
    def image_size(self) -> int:
        return self.dino.image


class Prismatic(nn.Module):
    """Vision towers → projector → routed Llama; OpenVLA and CogACT have it in common.

    Token order: BOS, the patches, the rest of the prompt.
    """

    def __init__(self, shape: PrismaticShape) -> None:
        super().__init__()
        self.shape = shape
        self.vision = FusedVision(shape.dino, shape.siglip)
        self.projector = Projector(shape.dino.width + shape.siglip.width, shape.decoder.width)
        self.embed = nn.Embedding(shape.rows, shape.decoder.width)
        self.decoder = RoutedDecoder.of(shape.decoder)

    def embed_inputs(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """pixels: (B, 6, S, S) in the model's type; ids: (B, T), BOS first. Returns what the decoder is given,
        (B, P + T, D); nothing in it is padded."""
        patches = self.projector(self.vision(pixels))  # (B, P, D)
        words = self.embed(ids)  # (B, T, D)
        return torch.cat([words[:, :1], patches, words[:, 1:]], dim=1)  # (B, P + T, D)


class OpenVLA(nn.Module):
    def __init__(self, shape: PrismaticShape) -> None:
        super().__init__()
        self.vlm = Prismatic(shape)
        self.lm_head = nn.Linear(shape.decoder.width, shape.rows, bias=False)

    def forward(self, pixels: Tensor, ids: Tensor, plan: Sequence[bool] | None = None) -> Tensor:
        """Logits of every next word, (B, P + T, V)."""
        return self.lm_head(self.vlm.decoder(self.vlm.embed_inputs(pixels, ids), None, plan))

    @torch.no_grad()
    def words(self, tokens: Tensor, plan: Sequence[bool], count: int) -> Tensor:
        """The `count` most likely words after tokens (1, N, D), each chosen before the next; the prompt's plan holds
        for all of them. Their ids, (1, count), are not read back, so that all of it can be captured."""
        hidden, cache = self.vlm.decoder.prefill(tokens, None, plan)  # (1, N, D)
        said = [self._likeliest(hidden[:, -1:])]
        while len(said) < count:
            hidden = self.vlm.decoder.decode(self.vlm.embed(said[-1]), cache)  # (1, 1, D)
            said.append(self._likeliest(hidden))
        return torch.cat(said, dim=1)

    def speak(self, tokens: Tensor, plan: Sequence[bool], count: int) -> tuple[int, ...]:
        """The same words, read back."""
        return tuple(self.words(tokens, plan, count)[0].tolist())

    def _likeliest(self, hidden: Tensor) -> Tensor:
        """(1, 1, D) to the id (1, 1)."""
        return self.lm_head(hidden).argmax(-1)


def unfilled(shape: PrismaticShape, device: str = "cpu") -> OpenVLA:
    """The model without memory for its weights: every parameter is on the meta device, for a loader to fill."""
    with torch.device("meta"):
        model = OpenVLA(shape)
    complete_tables(model.vlm, device)
    return model.eval()


def complete_tables(vlm: Prismatic, device: str) -> None:
    """Rotary frequencies are computed, not loaded, and stay in float32 whatever the weights' type."""
    vlm.decoder.rotary = RoutedDecoder.of(replace(vlm.shape.decoder, layers=0)).rotary.to(device)
