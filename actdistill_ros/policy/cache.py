"""Keys and values of the layers that a plan runs, kept from one decoded token to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPARE = 8  # places beyond the prompt that are set aside at once; a step of seven action tokens needs six


class KeyValueCache:
    """What `RoutedDecoder.prefill` leaves behind for `decode`. A layer that the plan leaves out has no entry.

    executed: one bool per layer, fixed for all tokens decoded with this cache: a layer that joined later would lack the
    keys of everything before it. length: tokens held. present: (B, length) bool, None if nothing is padded.
    """

    def __init__(self, executed: Sequence[bool], present: Tensor | None) -> None:
        self.executed = tuple(map(bool, executed))
        self.present = present
        self.length = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys, values, each (B, heads, capacity, D/heads)

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that something is kept of."""
        return tuple(sorted(self._kept))

    def update(self, keys: Tensor, values: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, n, D/heads) of one layer; returns all that it has seen.

        The name and the order of the arguments are what transformers' attention calls.
        """
        end = self.length + keys.shape[2]
        kept = self._kept.get(layer)
        if kept is None or kept[0].shape[2] < end:
            kept = self._kept[layer] = tuple(
                _grown(None if kept is None else kept[i], self.length, end + SPARE, new)
                for i, new in enumerate((keys, values))
            )
        for store, new in zip(kept, (keys, values), strict=True):
            store[:, :, self.length : end] = new
        return kept[0][:, :, :end], kept[1][:, :, :end]

    def advance(self, tokens: int) -> None:
        """All executed layers have seen this many more tokens; those after the prompt are never padded."""
        if self.present is not None and self.length:
            self.present = torch.cat([self.present, self.present.new_ones(len(self.present), tokens)], dim=1)
        self.length += tokens


def _grown(store: Tensor | None, length: int, capacity: int, like: Tensor) -> Tensor:
    """A store of `capacity` places, the first `length` of which are copied from the old one."""
    batch, heads, _, size = like.shape
    larger = like.new_empty(batch, heads, capacity, size)
    if store is not None:
        larger[:, :, :length] = store[:, :, :length]
    return larger
