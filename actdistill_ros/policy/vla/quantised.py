"""Linear layers whose weights are kept in eight or four bits; what goes in and out stays bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from actdistill_ros.contract.contract import ContractError

GROUP = 32  # numbers of a row that share a scale and an offset in four bits
_PACKED = 64  # rows that torch's packing may put into one block; those before and after it do not matter
_PIECE = 1 << 18  # numbers that are rounded at a time, so that what rounding takes is little beside any weights
_FEW = 8  # tokens up to which torch's int8 kernel is faster than a matrix product of weights put back to bfloat16
_INT8_KERNEL = "_weight_int8pack_mm"
_INT4_KERNELS = "_weight_int4pack_mm_for_cpu", "_convert_weight_to_int4pack_for_cpu"

Parts = Iterable[tuple[slice, Tensor]]  # rows of a weight, in their order


class Int8Linear(nn.Module):
    """y = x Wᵀ, every row of W as whole numbers −127 … 127 and one scale.

    On the CPU a few tokens go through torch's own kernel, which reads half of what bfloat16 weights are. Otherwise, and
    on a GPU, the weights of one layer are put back to bfloat16 for the product.
    """

    BITS = 8.0

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """weight: (O, I) int8; scale: (O,), in the type of the tokens."""
        super().__init__()
        self.weight, self.scale = _fixed(weight), _fixed(scale)
        self._kernel = getattr(torch, _INT8_KERNEL, None) if weight.device.type == "cpu" else None

    @classmethod
    def of(cls, parts: Parts, shape: tuple[int, int], dtype: torch.dtype, device: str) -> Int8Linear:
        """parts: rows of W, one part of them in memory at a time."""
        weight = torch.empty(shape, dtype=torch.int8, device=device)
        scale = torch.empty(shape[0], dtype=dtype, device=device)
        for rows, part in _pieces(parts):
            part = part.to(device, torch.float32)
            scale[rows] = _never_zero(part.abs().amax(1) / 127)
            weight[rows] = (part / scale[rows, None].float()).round_().clamp_(-127, 127).to(torch.int8)
        return cls(weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, I) to (…, O)."""
        if self._kernel and x.numel() <= _FEW * x.shape[-1]:
            return self._kernel(x.reshape(-1, x.shape[-1]), self.weight, self.scale).view(*x.shape[:-1], -1)
        return functional.linear(x, self.weight.to(x.dtype)) * self.scale


class Int4Linear(nn.Module):
    """y = x Wᵀ, every 32 numbers of a row of W as one of 16 steps between their least and their largest. CPU only:
    torch packs them otherwise for GPUs."""

    BITS = 4.0 + 2 * 16 / GROUP

    def __init__(self, packed: Tensor, scales: Tensor) -> None:
        """packed, scales: as torch's kernel takes them; scales (I / 32, O, 2), steps and middles, in the type of the
        tokens."""
        super().__init__()
        self.packed, self.scales = _fixed(packed), _fixed(scales)

    @classmethod
    def of(cls, parts: Parts, shape: tuple[int, int], dtype: torch.dtype, device: str) -> Int4Linear:
        """parts: rows of W, one part of them in memory at a time."""
        rows_, columns = shape
        steps = torch.empty(shape, dtype=torch.uint8)
        scales = torch.empty(columns // GROUP, rows_, 2, dtype=dtype)
        for rows, part in _pieces(parts):
            grouped = part.float().view(len(part), -1, GROUP)  # (R, I / 32, 32)
            least, largest = grouped.aminmax(dim=-1)  # (R, I / 32) each
            step = _never_zero((largest - least) / 15).to(dtype)
            middle = (least + 8 * step.float()).to(dtype)  # the kernel's numbers are (steps − 8) · step + middle
            scales[:, rows, 0], scales[:, rows, 1] = step.T, middle.T
            grouped = (grouped - middle[..., None].float()).div_(step[..., None].float()).add_(8)
            steps[rows] = grouped.round_().clamp_(0, 15).to(torch.uint8).view(len(part), columns)
        packed = torch.empty(rows_, columns // 2, dtype=torch.uint8)
        height = max(1, _PIECE // columns // _PACKED) * _PACKED
        for begin in range(0, rows_, height):
            some = slice(begin, begin + height)
            packed[some] = torch._convert_weight_to_int4pack_for_cpu(steps[some].to(torch.int32), 1)
        return cls(packed, scales)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, I) to (…, O)."""
        flat = x.reshape(-1, x.shape[-1])
        return torch._weight_int4pack_mm_for_cpu(flat, self.packed, GROUP, self.scales).view(*x.shape[:-1], -1)


KINDS = {"int8": Int8Linear, "int4": Int4Linear}


def check(name: str, shapes: Iterable[tuple[int, ...]], device: str) -> None:
    """Raises ContractError if weights of these shapes cannot be kept and used as one of `KINDS` on the device."""
    if name == "int8":
        return
    if not device.startswith("cpu"):
        raise ContractError(f"int4 weights run on the CPU only, not on {device}; take int8 or bfloat16.")
    if missing := [kernel for kernel in _INT4_KERNELS if not hasattr(torch, kernel)]:
        raise ContractError(f"torch {torch.__version__} has no {missing[0]}, which int4 needs; take int8.")
    for rows, columns in shapes:
        if columns % GROUP or rows % 16:
            raise ContractError(
                f"a layer of {rows} × {columns} cannot be kept as int4, whose rows go by 16 and columns by {GROUP}; "
                "take int8."
            )


def _pieces(parts: Parts) -> Iterator[tuple[slice, Tensor]]:
    """The same rows, fewer at a time."""
    for rows, part in parts:
        step = max(1, _PIECE // part.shape[1])
        for begin in range(0, len(part), step):
            piece = part[begin : begin + step]
            yield slice(rows.start + begin, rows.start + begin + len(piece)), piece


def _never_zero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
