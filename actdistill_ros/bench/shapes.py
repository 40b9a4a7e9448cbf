"""Decoders of a given shape with random weights, timed under a plan against all layers in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy import captured
from actdistill_ros.policy.decoder import DecoderShape, RoutedDecoder
from actdistill_ros.policy.router import Router
from actdistill_ros.policy.vla import weights
from actdistill_ros.policy.vla.diffusion import GUIDANCE, SAMPLING_STEPS, sample, squared_cosine
from actdistill_ros.policy.vla.dit import SIZES, DiT
from actdistill_ros.policy.vla.openvla import LLAMA2_7B, OpenVLA, PrismaticShape, unfilled
from actdistill_ros.policy.vla.router import VlaRouter
from actdistill_ros.policy.vla.vision import TowerShape

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}
_NO_TOWER = TowerShape(width=16, depth=2, heads=2, feed_forward=16)  # the vision towers are not what is timed
_ROUTER_WIDTH = 128  # as distillation makes it
_BLOCK = 1 << 20  # random numbers, repeated


@dataclass(frozen=True)
class Shape:
    """A decoder and what goes through it. tokens: of one observation, `vision` of them from images; rows: of the word
    table, 0 where no words follow; words: how many a step says; head: the diffusion head that acts, None for none."""

    decoder: DecoderShape
    tokens: int
    vision: int
    rows: int = 0
    words: int = 0
    head: str | None = None


SHAPES = {
    "tabletop": Shape(DecoderShape(160, 5, 432, 12), 30, 18),
    "openvla-7b": Shape(LLAMA2_7B, 278, 256, rows=32064, words=7),
    "cogact-base": Shape(replace(LLAMA2_7B, rms_eps=1e-5), 279, 256, head="DiT-B"),
    "tiny": Shape(DecoderShape(32, 2, 64, 4), 12, 6, rows=64),
}


@dataclass(frozen=True)
class Asked:
    """What is timed. executed: layers that the plan runs, first and last among them; decode: words after the prompt;
    capture: a way of `captured.WAYS` that the plan is timed in as well, None for none."""

    shape: Shape
    dtype: str
    device: str
    executed: int
    decode: int
    capture: str | None
    seconds: float

    def __post_init__(self) -> None:
        """Raises ContractError if that cannot be run."""
        layers = self.shape.decoder.layers
        if not 2 <= self.executed <= layers:
            raise ContractError(f"--layers {self.executed} is not in 2 … {layers}: first and last always run")
        if self.decode and not self.shape.rows:
            raise ContractError(f"this shape says no words; leave --decode {self.decode} out, or take openvla-7b")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ContractError(
                f"--device {self.device}: torch {torch.__version__} finds no GPU. Install torch for CUDA and its "
                "driver, or leave --device out."
            )
        if self.device == "cpu" and self.capture == "cuda-graph":
            raise ContractError("--capture cuda-graph needs --device cuda; the CPU has export and compile.")

    @property
    def plan(self) -> tuple[bool, ...]:
        """Spread evenly over the depth."""
        last = self.shape.decoder.layers - 1
        kept = {0, last, *np.linspace(1, last - 1, self.executed - 2).round().astype(int).tolist()}
        return tuple(i in kept for i in range(last + 1))


@torch.inference_mode()
def measure(asked: Asked) -> dict:
    """Median milliseconds and their ratios. Raises ContractError if memory lacks."""
    shape, layers = asked.shape, asked.shape.decoder.layers
    model = random_model(shape, weights.held_as(DTYPES[asked.dtype]), asked.device)
    decoder, plan, every = model.vlm.decoder, asked.plan, (True,) * layers
    tokens = torch.randn(1, shape.tokens, shape.decoder.width).to(asked.device, model.vlm.embed.weight.dtype)
    router = _router(shape, asked.device)
    ways: dict[str, Callable[[], object]] = {
        "decoder_ms_full": partial(_prompt, decoder, tokens, every, asked.decode),
        "decoder_ms_plan": partial(_prompt, decoder, tokens, plan, asked.decode),
        "router_ms": partial(router, tokens),
    }
    if asked.decode:
        for name, layers_ in (("full", every), ("plan", plan)):
            ways[f"decode_ms_{name}"] = _decode(model, tokens, layers_, asked.decode)
            ways[f"words_ms_{name}"] = partial(model.words, tokens, layers_, asked.decode)
    if shape.head:
        ways["head_ms"] = _head(shape, asked.device)
    found = {"tokens": shape.tokens, "weights_bytes": sum(p.nbytes for p in model.parameters())}
    if asked.capture:
        run = (lambda x: model.words(x, plan, asked.decode)) if asked.decode else (lambda x: decoder(x, None, plan))
        start, way = time.monotonic(), captured.by_name(asked.capture)(run, tokens)
        found |= {"capture": asked.capture, "capture_s": time.monotonic() - start, "capture_bytes": way.nbytes}
        found["capture_difference"] = float((way.replay(tokens).float() - run(tokens).float()).abs().max())
        ways |= {"uncaptured_ms": partial(run, tokens), "captured_ms": partial(way.replay, tokens)}
    wait = torch.cuda.synchronize if asked.device.startswith("cuda") else _nothing
    found |= dict(zip(ways, side_by_side(tuple(ways.values()), asked.seconds, wait), strict=True))
    return found | _ratios(found, asked)


def _ratios(found: dict, asked: Asked) -> dict:
    """Plan / full of everything that was timed both ways."""
    layers, ratio = asked.shape.decoder.layers, found["decoder_ms_plan"] / found["decoder_ms_full"]
    more = {"layers_total": layers, "layers_executed": asked.executed, "ratio": ratio}
    more["share_of_ideal"] = asked.executed / layers / ratio
    more["router_share"] = found["router_ms"] / (found["router_ms"] + found["decoder_ms_plan"])
    if asked.decode:
        more["decode_tokens"] = asked.decode
        more |= {f"{what}_ratio": found[f"{what}_ms_plan"] / found[f"{what}_ms_full"] for what in ("decode", "words")}
    if asked.capture:
        more["capture_ratio"] = found["captured_ms"] / found["uncaptured_ms"]
    return more


def _prompt(decoder: RoutedDecoder, tokens: Tensor, plan: tuple[bool, ...], decode: int) -> object:
    """The prompt through the plan's layers; with keys and values kept where words follow."""
    return decoder.prefill(tokens, None, plan) if decode else decoder(tokens, None, plan)


def _decode(model: OpenVLA, tokens: Tensor, plan: tuple[bool, ...], count: int) -> Callable[[], None]:
    """Says `count` words, one after the other, always after the same prompt."""
    decoder, (hidden, cache) = model.vlm.decoder, model.vlm.decoder.prefill(tokens, None, plan)
    first = model.lm_head(hidden[:, -1:]).argmax(-1)  # (1, 1)

    def say() -> None:
        cache.length, word = tokens.shape[1], first  # what the last time added is written over
        for _ in range(count):
            word = model.lm_head(decoder.decode(model.vlm.embed(word), cache)).argmax(-1)

    return say


def _router(shape: Shape, device: str) -> Callable[[Tensor], object]:
    """Scores for each layer, read back as a plan is made of them."""
    width, layers = shape.decoder.width, shape.decoder.layers
    if shape.rows or shape.head:
        router = VlaRouter(width, _ROUTER_WIDTH, layers, shape.vision).to(device).eval()
        return lambda tokens: router.evidence(tokens).tolist()
    small, budget = Router(width, 32, layers, shape.vision).to(device).eval(), torch.tensor([0.47], device=device)
    return lambda tokens: small(tokens.float(), None, budget).tolist()


def _head(shape: Shape, device: str) -> Callable[[], Tensor]:
    head = DiT(replace(SIZES[shape.head], cognition=shape.decoder.width)).to(device).eval()
    cognition = torch.randn(1, shape.decoder.width, device=device)
    noise = torch.randn(1, head.shape.chunk, head.shape.actions, device=device)
    schedule = squared_cosine()
    return lambda: sample(lambda x, at: head.guided(x, at, cognition, GUIDANCE), noise, schedule, SAMPLING_STEPS)


def side_by_side(
    ways: tuple[Callable[[], object], ...], seconds: float, wait: Callable[[], None] | None = None
) -> list[float]:
    """Median milliseconds of each, taken in turns so that a slower moment of the machine meets all alike.

    wait: until the device has done what it was told; a GPU answers before.
    """
    wait = wait or _nothing
    for way in ways:
        way()
    times: list[list[float]] = [[] for _ in ways]
    start = time.monotonic()
    while len(times[0]) < 3 or time.monotonic() - start < seconds:
        for way, found in zip(ways, times, strict=True):
            wait()
            begin = time.perf_counter()
            way()
            wait()
            found.append((time.perf_counter() - begin) * 1e3)
    return [float(np.median(found)) for found in times]


def _nothing() -> None:
    pass


def random_model(shape: Shape, held: weights.Held, device: str) -> OpenVLA:
    """Made in its final type at once: seven billion float32 weights would not fit where as many bfloat16 do. Shapes
    without words have a table of one.

    Raises ContractError if the weights do not fit the device's memory, or cannot be held so on it.
    """
    model = unfilled(PrismaticShape(_NO_TOWER, _NO_TOWER, shape.decoder, max(shape.rows, 1)), device)
    model.vlm.vision, model.vlm.projector = nn.Identity(), nn.Identity()
    weights.check_memory(model, held, device)
    weights.fill(model, _Random(model), held, device)
    return model


class _Random:
    """Numbers for every weight; factors of norms are ones."""

    where = "random weights"

    def __init__(self, model: nn.Module) -> None:
        self._shapes = {weights.stored_name(name): tuple(p.shape) for name, p in model.named_parameters()}
        self._block = torch.randn(_BLOCK) * 0.02

    def parts(self, name: str):
        """Rows of a parameter, a block of numbers at a time. Lets `weights.fill` read it like a file."""
        rows, *columns = self._shapes[name]
        if not columns:
            yield slice(0, rows), torch.ones(rows)
            return
        size = int(np.prod(columns, dtype=int))
        step = max(1, _BLOCK // size)
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            numbers = self._block if count * size <= _BLOCK else torch.randn(count * size) * 0.02
            yield slice(begin, begin + count), numbers[: count * size].view(count, *columns)
