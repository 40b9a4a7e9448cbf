"""What earlier chunks said about the present, averaged by how much they agree with the newest (CogACT, Sec. 3.4)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

ALPHA = 0.1


@dataclass(frozen=True)
class EnsembleSettings:
    """chunks: how many of the latest chunks are averaged, the newest among them; alpha: how much agreement weighs, 0
    averages evenly.

    CogACT matches `chunks` to how far a robot moves between two of its frames.
    """

    chunks: int
    alpha: float = ALPHA


WIDOWX = EnsembleSettings(7)
GOOGLE_ROBOT = EnsembleSettings(2)


class AdaptiveEnsemble:
    """One action per step out of overlapping chunks, one chunk per step.

    For actions that are averaged in the model's own convention, before any conversion: the deltas of one and the same
    step, which are small. Never for poses.
    """

    def __init__(self, settings: EnsembleSettings) -> None:
        """Raises ValueError if no chunk would be kept."""
        if settings.chunks < 1:
            raise ValueError(f"an ensemble of {settings.chunks} chunks has nothing to say; expected 1 or more")
        self._alpha = settings.alpha
        self._chunks: deque[np.ndarray] = deque(maxlen=settings.chunks)

    def reset(self) -> None:
        """Another task or a break: what was said before is about another moment."""
        self._chunks.clear()

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        """chunk: (K, A), its first action for this step. Returns this step's action (A,).

        Chunks too short to reach this step are passed over. Raises ValueError if the chunk is empty, not finite, or
        of another number of values than the last.
        """
        chunk = np.asarray(chunk, dtype=float)
        if chunk.ndim != 2 or not len(chunk) or not np.isfinite(chunk).all():
            raise ValueError(f"expected a chunk of finite actions, (K, A) with K ≥ 1; found shape {chunk.shape}")
        if self._chunks and chunk.shape[1] != self._chunks[-1].shape[1]:
            raise ValueError(
                f"this chunk's actions have {chunk.shape[1]} values, the last one's {self._chunks[-1].shape[1]}; "
                "call reset() when the policy changes"
            )
        self._chunks.append(chunk)
        said = np.stack([c[age] for age, c in enumerate(reversed(self._chunks)) if age < len(c)])  # (M, A)
        weights = np.exp(self._alpha * _cosines(said, said[0]))  # (M,)
        return weights @ said / weights.sum()


def _cosines(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each row (M, A) with the reference (A,), 0 where either is 0; (M,)."""
    return rows @ reference / (np.linalg.norm(rows, axis=1) * np.linalg.norm(reference) + 1e-7)
