"""What distilling a published VLA will cost, from its files' headers alone: nothing is loaded for it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from actdistill_ros.contract.chunk import ACTION_DIM
from actdistill_ros.data.reader import Dataset
from actdistill_ros.distill.estimate import GIB, Cost, disk_free, sharers
from actdistill_ros.distill.graph import HeadConfig, LayerHeads
from actdistill_ros.distill.memory import Meter
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.student import StudentSettings
from actdistill_ros.distill.teacher import DTYPES
from actdistill_ros.distill.vla.measures import SAMPLES
from actdistill_ros.distill.vla.student import ROUTER_HIDDEN
from actdistill_ros.distill.vla_losses import REPEATS
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, layout
from actdistill_ros.policy.vla.openvla import PrismaticShape, unfilled
from actdistill_ros.policy.vla.router import VlaRouter
from actdistill_ros.policy.vla.tokens import TOKENIZER, PromptReader

TRAINED = 4 * 5  # bytes of a trained weight: itself, gradient, two moments, average
MARGIN = 1.3  # of what a step adds to the weights; a step of 78.6 M weights was measured to take an eighth less
STREAM = 4 + 8  # bytes per layer, token and width: the teacher's stream; the student's, and what its gate let through
# Bytes that autograd keeps per token of a layer, as counted: per width, per feed-forward width, per rank of adapters.
KEPT = {"float32": (37, 16, 28), "bfloat16": (30, 10, 82)}
HEADS = (12, 40, 3000)  # the same of the graph heads: per layer, token and width; per pair of tokens; per token
BACKWARD = 2  # what is kept, and as much again for its gradients
DIFFUSION = 80  # bytes per token, width and block of a diffusion head
USED = (
    0.7  # share of a single matrix product's speed that a step of 78.6 M weights was measured to reach on a CPU: 0.76
)


@dataclass(frozen=True)
class Part:
    """One line of the arithmetic."""

    name: str
    how: str
    size: int


@dataclass(frozen=True)
class VlaCost:
    parts: tuple[Part, ...]
    cost: Cost

    def check(self) -> None:
        """Raises DistillError if memory or disk will not do."""
        self.cost.check()

    def __str__(self) -> str:
        width = max(len(part.how) for part in self.parts)
        lines = [f"  {p.name:<22}{p.how:<{width}}  {p.size / GIB:8.2f} GiB" for p in self.parts]
        return "\n".join([*lines, str(self.cost)])


@dataclass(frozen=True)
class Sizes:
    """What memory and time follow from. frozen: weights of the model; decoder: those of its layers; adapted: inputs and
    outputs of its linear layers, added up; tokens: of the longest sample; chunk: actions; head: weights of a diffusion
    head, 0 for words, with its depth and width."""

    shape: PrismaticShape
    frozen: int
    decoder: int
    adapted: int
    tokens: int
    chunk: int
    head: int
    head_shape: tuple[int, int]


def of(
    folder: Path,
    data: Sequence[Path],
    dtype: str,
    settings: StudentSettings,
    rank: int,
    heads: HeadConfig,
    probe_steps: int,
    checkpointing: bool,
    target: Path,
    processes: Processes,
) -> VlaCost:
    """rank: of the adapters, 0 for a copy of the decoder. Raises ContractError if the folder is no teacher of these
    kinds, DataError if a data set is missing."""
    sizes = measure(folder, data)
    size = processes.share(settings.batch)
    on_cpu = processes.device.type == "cpu"
    parts = memory(sizes, dtype, rank, heads, size.stop - size.start, checkpointing, on_cpu)
    meter = Meter(processes.device)
    there = min(processes.every(meter.free() // sharers(processes)))
    trained = _trained(sizes, rank) + sum(p.numel() for p in _new(sizes, heads))
    files = sum(path.stat().st_size for path in checkpoint.open_source(layout.read(folder)).files)
    disk = files + 2 * 4 * 4 * trained  # the student, and a state beside the one that it replaces
    seconds = _seconds(sizes, dtype, settings, rank, probe_steps, checkpointing, processes)
    needed = sum(part.size for part in parts)
    return VlaCost(parts, Cost(needed, there, disk, disk_free(target), seconds, processes.count))


def memory(
    sizes: Sizes, dtype: str, rank: int, heads: HeadConfig, batch: int, checkpointing: bool, cpu: bool = False
) -> tuple[Part, ...]:
    """What a process takes that computes `batch` samples of a step; cpu: on a CPU, not on a card."""
    return (*_weights(sizes, dtype, rank, heads), *_step(sizes, dtype, rank, batch, checkpointing, cpu))


def measure(folder: Path, data: Sequence[Path]) -> Sizes:
    """From the headers of the teacher's files and the sentences of the data."""
    made = layout.read(folder)
    others = getattr(checkpoint.open_source(made), "others", {}).get(cogact_checkpoint.HEAD, {})
    reader = PromptReader.load(folder / TOKENIZER, made.vocabulary, made.shape.rows)
    prompt, words = (reader.cognition_prompt, 0) if others else (reader.action_prompt, ACTION_DIM)
    sentences = {text for one in data for text in Dataset.open(one).instructions()}
    longest = max(len(prompt(text)) for text in sentences)
    return sizes_of(made.shape, longest + words, {name: tuple(shape) for name, shape in others.items()})


def sizes_of(shape: PrismaticShape, words: int, head: Mapping[str, tuple[int, ...]]) -> Sizes:
    """words: of the longest sample; head: shapes of a diffusion head's tensors by name, empty for words."""
    model = unfilled(shape)
    spoken = sum(p.numel() for p in model.lm_head.parameters())
    layers = [m for m in model.vlm.decoder.layers.modules() if isinstance(m, nn.Linear)]
    positions, width = next((s for n, s in head.items() if n.endswith("positional_embedding")), (1, 0))
    return Sizes(
        shape=shape,
        frozen=sum(p.numel() for p in model.parameters()) - (spoken if head else 0),
        decoder=sum(p.numel() for p in model.vlm.decoder.parameters()),
        adapted=sum(m.in_features + m.out_features for m in layers),
        tokens=shape.dino.patches + words,
        chunk=max(1, positions - 1),
        head=sum(math.prod(s) for s in head.values()),
        head_shape=(len({n.split(".")[2] for n in head if ".blocks." in n}), width),
    )


def _trained(sizes: Sizes, rank: int) -> int:
    """Weights that are trained of what the teacher has, head included."""
    if rank:
        return rank * sizes.adapted + sizes.head
    words = 0 if sizes.head else sizes.shape.rows * sizes.shape.decoder.width
    return sizes.decoder + words + sizes.head


def _new(sizes: Sizes, heads: HeadConfig) -> list[nn.Parameter]:
    decoder = sizes.shape.decoder
    with torch.device("meta"):
        graph = LayerHeads(decoder.layers, decoder.width, sizes.chunk, ACTION_DIM, heads)
        router = VlaRouter(decoder.width, ROUTER_HIDDEN, decoder.layers, sizes.shape.dino.patches)
    return [*graph.parameters(), *router.parameters()]


def _weights(sizes: Sizes, dtype: str, rank: int, heads: HeadConfig) -> list[Part]:
    held, trained, new = DTYPES[dtype].itemsize, _trained(sizes, rank), sum(p.numel() for p in _new(sizes, heads))
    parts = [Part("teacher", f"{_m(sizes.frozen)} × {held} bytes ({dtype})", sizes.frozen * held)]
    if sizes.head:
        parts.append(Part("teacher's head", f"{_m(sizes.head)} × 4 bytes", 4 * sizes.head))
    what = f"adapters of rank {rank}" if rank else "copy of the decoder"
    what += " and head" if sizes.head else ""
    five = f"{TRAINED} bytes (weight, gradient, two moments, average; float32)"
    parts.append(Part("student", f"{what}: {_m(trained)} × {five}", TRAINED * trained))
    if not rank and held < 4:
        parts.append(Part("narrow copies", f"{_m(trained)} × {held} bytes, while a step runs", held * trained))
    parts.append(
        Part("graph heads, router", f"{_m(new)} × {TRAINED + 4} bytes, the teacher's included", (TRAINED + 4) * new)
    )
    return parts


def _step(sizes: Sizes, dtype: str, rank: int, batch: int, checkpointing: bool, cpu: bool) -> list[Part]:
    """What a step adds; batch: samples of this process."""
    decoder, n = sizes.shape.decoder, sizes.tokens
    tokens, per = batch * n, decoder.layers * batch * n * decoder.width
    a, b, c = KEPT[dtype]
    # Attention on a CPU keeps its weights; a card's kernels compute them again.
    attention = 4 * decoder.heads * n if cpu else 0
    inside = a * decoder.width + b * decoder.feed_forward + c * rank + attention
    once = 1 if checkpointing else decoder.layers
    pairs = decoder.layers * batch * n * n
    graph = BACKWARD * (HEADS[0] * per + HEADS[1] * pairs + HEADS[2] * decoder.layers * tokens)
    of = f"{decoder.layers} layers × {batch} × {n} tokens"
    parts = [
        Part("residual streams", f"{of} × {decoder.width} × {STREAM} bytes × {MARGIN:g}", int(MARGIN * STREAM * per)),
        Part(
            "inside of layers",
            f"{'1 layer' if checkpointing else f'{once} layers'} × {batch} × {n} tokens × {inside / 1e3:.0f} kB × "
            f"{BACKWARD} × {MARGIN:g}",
            int(MARGIN * BACKWARD * once * tokens * inside),
        ),
        Part(
            "inside of graph heads",
            f"{of} × {graph / decoder.layers / tokens / 1e3:.0f} kB × {MARGIN:g}",
            int(MARGIN * graph),
        ),
    ]
    if sizes.head:
        depth, width = sizes.head_shape
        draws = REPEATS * batch * (1 + sizes.chunk)
        parts.append(
            Part(
                "inside of the head",
                f"{REPEATS} × {batch} × {1 + sizes.chunk} tokens × {depth} blocks × {width} × {DIFFUSION} bytes × "
                f"{MARGIN:g}",
                int(MARGIN * draws * depth * width * DIFFUSION),
            )
        )
    return parts


def _seconds(
    sizes: Sizes,
    dtype: str,
    settings: StudentSettings,
    rank: int,
    probe_steps: int,
    checkpointing: bool,
    processes: Processes,
) -> float:
    """Of training and of ordering the layers, at the speed of one matrix product here."""
    forward = 2 * sizes.decoder * sizes.tokens  # of one sample
    seen = 2 * (sizes.frozen - sizes.decoder) * sizes.shape.dino.patches
    steps = 2 + (1 if rank else 2) + bool(checkpointing)  # teacher, student, its gradients, once more
    student = settings.steps * settings.batch * (steps * forward + seen)
    probing = probe_steps * settings.batch * (forward + seen)
    layers = sizes.shape.decoder.layers
    plans = sum((k - 1) * (k + 1) / layers for k in range(2, layers))  # candidates × layers that each of them runs
    work = (student + probing) / processes.count + SAMPLES * plans * forward / processes.count
    return work / (USED * _speed(sizes, dtype, processes.device))


def _speed(sizes: Sizes, dtype: str, device: torch.device) -> float:
    """Operations per second of one of the decoder's matrix products."""
    decoder, rows = sizes.shape.decoder, 8192 if device.type == "cuda" else 256
    kind = DTYPES[dtype]
    x, w = (
        torch.ones(*s, dtype=kind, device=device)
        for s in ((rows, decoder.width), (decoder.width, decoder.feed_forward))
    )
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        (x @ w)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * rows * decoder.width * decoder.feed_forward / best


def _m(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} B"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
