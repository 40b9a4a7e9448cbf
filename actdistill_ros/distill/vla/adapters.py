"""What the student trains of a language model: low-rank adapters beside the teacher's weights (LoRA), or a copy of
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Protocol

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from actdistill_ros.policy.decoder import RoutedDecoder

PREFIX = "vlm.decoder."  # of these names in the checkpoint's model
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MOST_ALPHA = 16  # OpenVLA's own fine-tuning: rank 32, scaled as if by half
_ADAPTER = "student"


class Trained(Protocol):
    """decoder: the student's."""

    decoder: RoutedDecoder

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by names of its own."""

    def off(self) -> AbstractContextManager:
        """While it lasts, the teacher's decoder is the teacher's again."""

    def merged(self) -> Mapping[str, Tensor]:
        """What is not as the teacher has it, by names of the checkpoint's model; each is computed when asked for."""


class LowRank:
    """h = (W + s · B A) x for every linear layer: W is the teacher's own tensor and stays as it is, A and B are trained
    in float32. Teacher and student are one model in memory."""

    def __init__(self, decoder: RoutedDecoder, rank: int) -> None:
        """B starts at 0: the student starts as the teacher. Raises ValueError if the decoder is adapted already."""
        _check_plain(decoder)
        config = LoraConfig(r=rank, lora_alpha=min(rank, MOST_ALPHA), target_modules=list(LINEAR), lora_dropout=0.0)
        self.decoder = inject_adapter_in_model(config, decoder, _ADAPTER)
        self._layers = {name: m for name, m in decoder.named_modules() if isinstance(m, LoraLayer)}
        for layer in self._layers.values():
            layer.lora_A.float(), layer.lora_B.float()

    def parameters(self) -> dict[str, nn.Parameter]:
        parts = {f"{name}.A": layer.lora_A[_ADAPTER].weight for name, layer in self._layers.items()}
        return parts | {f"{name}.B": layer.lora_B[_ADAPTER].weight for name, layer in self._layers.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)

    def merged(self) -> Mapping[str, Tensor]:
        return _Merged({f"{PREFIX}{name}.weight": layer for name, layer in self._layers.items()})


class _Merged(Mapping):
    """W + s · B A in float32, one matrix at a time: all of them would be as large as the model."""

    def __init__(self, layers: Mapping[str, LoraLayer]) -> None:
        self._layers = layers

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        layer = self._layers[name]
        return layer.get_base_layer().weight.float() + layer.get_delta_weight(_ADAPTER).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class Copy:
    """All weights of the decoder, in float32, beside the teacher's."""

    def __init__(self, decoder: RoutedDecoder) -> None:
        """Raises ValueError if the decoder is adapted already."""
        _check_plain(decoder)
        self.decoder = deepcopy(decoder).float().requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.decoder.named_parameters())

    def off(self) -> AbstractContextManager:
        return nullcontext()

    def merged(self) -> Mapping[str, Tensor]:
        return {f"{PREFIX}{name}": p.detach() for name, p in self.decoder.named_parameters()}


def _check_plain(decoder: RoutedDecoder) -> None:
    if any(isinstance(module, LoraLayer) for module in decoder.modules()):
        raise ValueError("this decoder has adapters already: one student at a time; load the teacher anew")
