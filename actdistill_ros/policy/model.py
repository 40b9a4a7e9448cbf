"""The vision-language-action policy: image encoders → projector → Llama decoder → action head, OpenVLA and CogACT in
small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.decoder import RoutedDecoder
from actdistill_ros.policy.router import Router
from actdistill_ros.policy.vision import ImageEncoder

METRES_TO_UNITS = 10.0  # places are learnt in decimetres, so that their loss is about as large as the motion's


@dataclass(frozen=True)
class Prediction:
    """motion: (B, K, 6) normalised deltas; gripper: (B, K) logits of open; scene: (B, 14) object places seen by the
    encoders [dm];
    focus: (B, 6) place of the block that the next action is about, and where it is to go [dm]."""

    motion: Tensor
    gripper: Tensor
    scene: Tensor
    focus: Tensor

    def float(self) -> Prediction:
        return Prediction(self.motion.float(), self.gripper.float(), self.scene.float(), self.focus.float())


@dataclass(frozen=True)
class Told:
    """What the policy makes of an instruction alone, the same in every step of a task.

    words: (B, T, D) tokens, not scaled yet; spoken: (B, T) bool, False where padded; language: (B, D) steers the
    encoders.
    """

    words: Tensor
    spoken: Tensor
    language: Tensor


class Policy(nn.Module):
    """Token order: instruction, cameras, state, readout; causal, so that the image and state tokens can use the
    instruction."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width, language = config.width, config.width
        self.embed = nn.Embedding(len(config.vocabulary) + 2, width, padding_idx=0)
        self.reader = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.pool = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, language))
        self.encoders = nn.ModuleDict(
            {
                name: ImageEncoder(count, config.vision_width, language)
                for name, count in zip(config.cameras, config.vision_tokens, strict=True)
            }
        )
        self.projectors = nn.ModuleDict({name: _projector(config.vision_width + 2, width) for name in config.cameras})
        self.state = nn.Sequential(nn.Linear(config.state_dim + 1, width), nn.GELU(), nn.Linear(width, width))
        self.readout = nn.Parameter(torch.randn(width) * 0.02)
        self.token_scale = nn.Parameter(torch.ones(width))
        self.decoder = RoutedDecoder(width, config.heads, config.feed_forward, config.layers)
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, config.chunk * config.action_dim)
        )
        seen = sum(config.vision_tokens) * (config.vision_width + 2)
        self.scene = nn.Sequential(nn.Linear(seen, width), nn.GELU(), nn.Linear(width, config.scene_dim))
        self.focus = nn.Linear(width, config.focus_dim)
        self.ask = nn.Linear(language, 2 * width)
        routed = config.router
        self.router = None
        if routed:
            told = (routed.recent, config.action_dim + 1)
            self.router = Router(width, routed.hidden, config.layers, sum(config.vision_tokens), told)
        nn.init.normal_(self.embed.weight, std=0.5)

    def embed_inputs(
        self, images: Mapping[str, Tensor], instruction: Tensor, state: Tensor, pose_known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Everything before the decoder.

        images: name -> (B, 3, S, S) in [−1, 1]; instruction: (B, T) ids, 0 padded; state: (B, 10);
        pose_known: (B,) float, 0 hides the pose (all but the gripper).
        Returns tokens (B, N, D), presence (B, N) bool and what the encoders saw (B, E).
        """
        return self.look(images, self.tell(instruction), state, pose_known)

    def tell(self, instruction: Tensor) -> Told:
        """instruction: (B, T) ids, 0 padded."""
        words = self.embed(instruction)  # (B, T, D)
        spoken = instruction != 0  # (B, T)
        words = words + self._read(words, spoken)  # a word and its role: "red on blue" is not "blue on red"
        told = words.masked_fill(~spoken[:, :, None], -1e4).amax(1)  # (B, D)
        return Told(words, spoken, self.pool(told))

    def look(
        self, images: Mapping[str, Tensor], told: Told, state: Tensor, pose_known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`embed_inputs` once the instruction is read."""
        words, spoken, language = told.words, told.spoken, told.language
        seen = [self.encoders[name](images[name], language) for name in self.config.cameras]  # (B, K, W + 2) each
        looks = [self.projectors[name](tokens) for name, tokens in zip(self.config.cameras, seen, strict=True)]
        pose = torch.cat([state[:, :-1] * pose_known[:, None], state[:, -1:], pose_known[:, None]], dim=1)  # (B, 11)
        batch = state.shape[0]
        last = torch.stack([self.state(pose), self.readout.expand(batch, -1)], dim=1)  # (B, 2, D)
        last = last + self.ask(language).unflatten(1, (2, -1))  # what to do is asked of the tokens that answer
        tokens = torch.cat([words, *looks, last], dim=1) * self.token_scale  # (B, N, D)
        present = torch.cat([spoken, spoken.new_ones(batch, tokens.shape[1] - spoken.shape[1])], dim=1)
        return tokens, present, torch.cat([tokens_seen.flatten(1) for tokens_seen in seen], dim=1)

    def _read(self, words: Tensor, spoken: Tensor) -> Tensor:
        """What each word means in its sentence, (B, T, D); zero where padded."""
        lengths = spoken.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=words.shape[1])[0]

    def act(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Last token's hidden state (B, D) to motion (B, K, 6) and gripper logits (B, K)."""
        out = self.head(hidden).unflatten(1, (self.config.chunk, self.config.action_dim))
        return out[..., :6], out[..., 6]

    def forward(
        self,
        images: Mapping[str, Tensor],
        instruction: Tensor,
        state: Tensor,
        pose_known: Tensor,
        plan: Sequence[bool] | None = None,
    ) -> Prediction:
        tokens, present, seen = self.embed_inputs(images, instruction, state, pose_known)
        return self.answer(self.decoder(tokens, present, plan)[:, -1], seen)

    def answer(self, hidden: Tensor, seen: Tensor) -> Prediction:
        """hidden: (B, D) last token after the decoder; seen: (B, E) from `embed_inputs`."""
        motion, gripper = self.act(hidden)
        return Prediction(motion, gripper, self.scene(seen), self.focus(hidden))


def _projector(seen: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(seen, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
