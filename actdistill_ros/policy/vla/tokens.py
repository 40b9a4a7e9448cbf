"""The words around a Prismatic VLA: its prompt, its tokenizer and the last words of the vocabulary that mean
actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from actdistill_ros.contract.contract import ContractError

TOKENIZER = "tokenizer.json"
BOS, EOS = 1, 2
EMPTY = 29871  # the empty piece "▁" of Llama's tokenizer: in training it stood between "Out:" and the answer
EMPTY_PIECE = "▁"


def prompt(instruction: str) -> str:
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


@dataclass(frozen=True)
class ActionBins:
    """The last `count` ids of the vocabulary, counted downwards, are bins over −1 … 1.

    vocabulary: words of the tokenizer without padding (32000 for Llama-2); the id `vocabulary − d` is the d-th edge.
    """

    vocabulary: int
    count: int = 256

    @property
    def _edges(self) -> np.ndarray:
        return np.linspace(-1.0, 1.0, self.count)  # (count,)

    @property
    def centres(self) -> np.ndarray:
        """(count − 1,) what the bins stand for."""
        edges = self._edges
        return (edges[:-1] + edges[1:]) / 2.0

    def encode(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised actions to ids, of the same shape; what is outside −1 … 1 is clipped."""
        return self.vocabulary - np.digitize(np.clip(normalised, -1.0, 1.0), self._edges)

    def decode(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids to normalised actions, of the same shape. An id that is no action becomes the nearest bin: ask
        `are_actions` before an arm is moved by it."""
        return self.centres[np.clip(self.vocabulary - np.asarray(ids) - 1, 0, self.count - 2)]

    def are_actions(self, ids: Sequence[int] | np.ndarray) -> bool:
        ids = np.asarray(ids)
        return bool(np.all((ids >= self.vocabulary - self.count) & (ids < self.vocabulary)))


class PromptReader:
    """Instructions to the ids that the checkpoint was trained on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path, vocabulary: int, rows: int) -> PromptReader:
        """path: tokenizer.json; vocabulary: words that the action bins count from; rows: of the embedding table.

        Raises ContractError if the file is missing or unreadable, or if it is not the tokenizer that these weights
        were trained with: actions are the last words of the vocabulary, so one of another size would move the arm
        elsewhere.
        """
        if not path.is_file():
            raise ContractError(
                f"{path} is missing; expected Llama-2's fast tokenizer in the checkpoint's folder. "
                "Copy tokenizer.json from the Hugging Face folder of the model (openvla-7b has it)."
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ContractError(f"{path} cannot be read ({error}); copy it again.") from error
        words, all_words = tokenizer.get_vocab_size(with_added_tokens=False), tokenizer.get_vocab_size()
        if words != vocabulary or all_words > rows:
            raise ContractError(
                f"{path} has {words} words and {all_words - words} added ones; expected {vocabulary} and no more than "
                f"{rows - vocabulary}: the weights' actions are counted from word {vocabulary}. Use the tokenizer that "
                "came with these weights."
            )
        if tokenizer.id_to_token(EMPTY) != EMPTY_PIECE:
            raise ContractError(
                f"{path}: word {EMPTY} is {tokenizer.id_to_token(EMPTY)!r}, expected {EMPTY_PIECE!r} as in Llama-2's. "
                "Use the tokenizer that came with these weights."
            )
        return cls(tokenizer)

    def action_prompt(self, instruction: str) -> list[int]:
        """BOS, the prompt's words and the empty piece that the first action word follows; the patches go after BOS."""
        ids = [BOS, *self._tokenizer.encode(prompt(instruction), add_special_tokens=False).ids]
        return ids if ids[-1] == EMPTY else [*ids, EMPTY]

    def cognition_prompt(self, instruction: str) -> list[int]:
        """As CogACT reads it: the end-of-sentence word comes last, and its hidden state is the cognition feature."""
        ids = [BOS, *self._tokenizer.encode(prompt(instruction), add_special_tokens=False).ids]
        return [*ids, EMPTY, EOS]
