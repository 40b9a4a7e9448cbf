"""Plans that occur often are captured once and replayed; others run as the model is written, with the same result."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

RAN = Callable[[Tensor], Tensor]  # tokens (B, N, D) of the shape that was captured to the run's result
WAYS = ("export", "compile", "cuda-graph")
# Share of the largest number by which kernels that add in another order may differ, by the type that they add in.
_ROUNDING = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
_REFUSED = -1


class Capture(Protocol):
    """One way to make a fixed run fast. It is asked for one shape of tokens at a time."""

    def __call__(self, run: RAN, example: Tensor) -> Captured:
        """run: reads back nothing and does the same operations whatever the numbers are; example: tokens (B, N, D).
        Raises RuntimeError if it cannot be captured."""


@dataclass(frozen=True)
class Captured:
    """replay: the run for tokens of the captured shape; its result is the caller's to keep. nbytes: memory that is
    held for it beside the weights."""

    replay: RAN
    nbytes: int


@dataclass(frozen=True)
class Limits:
    """after: runs of the same plan and shape until it is captured; most, most_bytes: captures kept, and their memory;
    remembered: plans that are counted at a time."""

    after: int = 8
    most: int = 8
    most_bytes: int = 1 << 30
    remembered: int = 256


@dataclass(frozen=True)
class Key:
    """What a capture holds for: a plan, and the shape and type of the tokens. Instructions of different length make
    different shapes."""

    plan: tuple[bool, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


class CapturedRuns:
    """A decoder's run whose frequent plans are captured. Used from one thread at a time.

    The step in which a plan is captured answers as the model is written, and takes as much longer as capturing does.
    A capture that fails, answers differently or takes more memory than is allowed is not kept: its plan goes on
    without.
    """

    def __init__(
        self, run: Callable[[Tensor, Sequence[bool]], Tensor], capture: Capture, limits: Limits | None = None
    ) -> None:
        """run: tokens (B, N, D) and a plan to a tensor; see `Capture` for what it may not do."""
        self._run, self._capture, self._limits = run, capture, limits or Limits()
        self._kept: OrderedDict[Key, Captured] = OrderedDict()  # the least recently used first
        self._seen: OrderedDict[Key, int] = OrderedDict()  # runs since it was last captured, the oldest first

    @property
    def kept(self) -> tuple[Key, ...]:
        """What is captured now, the least recently used first."""
        return tuple(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory that the captures hold beside the weights."""
        return sum(captured.nbytes for captured in self._kept.values())

    def __call__(self, tokens: Tensor, plan: Sequence[bool]) -> Tensor:
        """tokens: (B, N, D); plan: one bool per layer."""
        key = Key(tuple(map(bool, plan)), tuple(tokens.shape), tokens.dtype)
        if (captured := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return captured.replay(tokens)
        if self._is_due(key):
            self._take(key, tokens)
        return self._run(tokens, key.plan)

    def _is_due(self, key: Key) -> bool:
        times = self._seen.pop(key, 0)
        self._seen[key] = times = times if times == _REFUSED else times + 1
        if len(self._seen) > self._limits.remembered:
            self._seen.popitem(last=False)
        return times >= self._limits.after

    def _take(self, key: Key, tokens: Tensor) -> None:
        """Capture this plan, try it, and make room for it."""
        others = tokens.roll(1, -1)  # a capture that kept numbers of its example would pass on these very tokens
        try:
            captured = self._capture(lambda given: self._run(given, key.plan), tokens)
            problem = _difference(captured.replay(others), self._run(others, key.plan), key.dtype)
        except RuntimeError as error:
            problem = str(error).partition("\n")[0] or repr(error)
        if not problem and captured.nbytes > self._limits.most_bytes:
            problem = f"it takes {captured.nbytes >> 20} MiB, allowed are {self._limits.most_bytes >> 20}"
        if problem:
            self._seen[key] = _REFUSED
            logging.getLogger(__name__).warning(
                "%d of %d layers at shape %s run uncaptured: %s", sum(key.plan), len(key.plan), key.shape, problem
            )
            return
        del self._seen[key]
        while self._kept and self._is_full(captured.nbytes):
            self._kept.popitem(last=False)
        self._kept[key] = captured

    def _is_full(self, coming: int) -> bool:
        return len(self._kept) >= self._limits.most or self.nbytes + coming > self._limits.most_bytes


def _difference(found: Tensor, expected: Tensor, computed_in: torch.dtype) -> str:
    """What sets a captured result apart from the uncaptured one beyond rounding, if anything does."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"it answers {tuple(found.shape)} {found.dtype} in place of {tuple(expected.shape)} {expected.dtype}"
    if not expected.is_floating_point():
        return "" if torch.equal(found, expected) else "it answers other words"
    allowed = _ROUNDING.get(computed_in, 1e-5) * float(expected.abs().max())
    differs = float((found - expected).abs().max())
    return "" if differs <= allowed else f"it answers {differs:.2e} off, allowed are {allowed:.2e}"


class Exported:
    """The run as a graph of torch's operations, without Python between them; compiled if a compiler is named.

    Works on any device. It holds no memory beside the weights while it does not run.
    """

    def __init__(self, compiler: str | Callable | None = None) -> None:
        """compiler: a backend of `torch.compile`; `inductor` needs a C++ compiler on the machine. None for none."""
        self._compiler = compiler

    def __call__(self, run: RAN, example: Tensor) -> Captured:
        with torch.inference_mode(False), torch.no_grad():  # what inference mode makes keeps to it
            graph = torch.export.export(_Module(run), (example.clone(),), strict=False).module()
        if self._compiler:
            # The graph has code of its own, so that `torch.compile` counts its recompilations apart from other plans'.
            graph = torch.compile(graph, backend=self._compiler, dynamic=False)
        return Captured(torch.no_grad()(graph), 0)


class _Module(torch.nn.Module):
    """A run as `torch.export` takes it."""

    def __init__(self, run: RAN) -> None:
        super().__init__()
        self._run = run

    def forward(self, tokens: Tensor) -> Tensor:
        return self._run(tokens)


class CudaGraph:
    """The run's kernels, recorded by the GPU once and started together.

    A graph reads its input from, and writes its result to, memory that stays its own as long as it lives.
    """

    WARM_UP = 3  # runs before the recording: kernels are chosen and libraries get their work space in the first

    @torch.inference_mode()
    def __call__(self, run: RAN, example: Tensor) -> Captured:
        if not example.is_cuda:
            raise RuntimeError(f"a CUDA graph needs tokens on a GPU, these are on {example.device}")
        with torch.cuda.device(example.device):
            held = example.clone()
            self._warm_up(run, held)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                before = torch.cuda.memory_reserved()  # what the recording reserves from here on is its own
                result = run(held)
            nbytes = torch.cuda.memory_reserved() - before + held.nbytes

        @torch.inference_mode()
        def replay(tokens: Tensor) -> Tensor:
            held.copy_(tokens)
            graph.replay()
            return result.clone()  # the next replay writes over it

        return Captured(replay, nbytes)

    def _warm_up(self, run: RAN, held: Tensor) -> None:
        """On a stream of its own, as recording will be; the current one goes on only once that is done."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(self.WARM_UP):
                run(held)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()


def by_name(name: str) -> Capture:
    """One of `WAYS`. Raises ValueError for any other."""
    if name not in WAYS:
        raise ValueError(f"plans are captured by {', '.join(WAYS)}; got {name!r}")
    return CudaGraph() if name == "cuda-graph" else Exported("inductor" if name == "compile" else None)
