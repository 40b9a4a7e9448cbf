"""Instructions to word ids; the vocabulary is fixed at training and stored in the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"[a-z]+")


def words(instruction: str) -> list[str]:
    return _WORD.findall(instruction.lower())


@dataclass(frozen=True)
class Tokenizer:
    """vocabulary: words by id, from 2 on; 0 pads and 1 stands for a word never seen in training."""

    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, instructions: Iterable[str]) -> Tokenizer:
        return cls(tuple(sorted({word for text in instructions for word in words(text)})))

    @property
    def size(self) -> int:
        return len(self.vocabulary) + 2

    def encode(self, instruction: str) -> list[int]:
        ids = {word: i + 2 for i, word in enumerate(self.vocabulary)}
        return [ids.get(word, UNKNOWN) for word in words(instruction)]

    def unknown(self, instruction: str) -> list[str]:
        """Words of the instruction that the policy cannot read."""
        return [word for word in words(instruction) if word not in self.vocabulary]
