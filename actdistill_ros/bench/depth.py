"""`actdistill bench depth`: decoder time under a plan against all layers, side by side in one process."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.decoder import RoutedDecoder
from actdistill_ros.policy.router import Router
from actdistill_ros.trials.report import machine

if TYPE_CHECKING:
    from actdistill_ros.contract.observation import Observation
    from actdistill_ros.policy.runtime import PolicyRuntime

OBSERVATIONS = 24
STAGES = ("preprocess", "encode", "router", "decoder", "head", "step")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A decoder with random weights; tokens: of one observation, `vision` of them from images."""

    width: int
    heads: int
    feed_forward: int
    layers: int
    tokens: int
    vision: int


SHAPES = {
    "tabletop": Shape(160, 5, 432, 12, 30, 18),
    "openvla-7b": Shape(4096, 32, 11008, 32, 278, 256),
    "tiny": Shape(32, 2, 48, 4, 12, 6),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", choices=SHAPES, default="tabletop", help="decoder with random weights (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", type=Path, help="a student instead: whole steps on frames of the simulated arm")
    parser.add_argument(
        "--engine",
        choices=("best", "torch", "all"),
        default="best",
        help="of a checkpoint: the fastest installed, torch, or a comparison of all (default: %(default)s)",
    )
    parser.add_argument("--budget", type=float, help="of the student (default: what it was made for)")
    parser.add_argument("--layers", type=int, help="layers to run of a shape (default: 15 of 32, in this proportion)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long to measure; every way runs three times or more"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    if args.engine == "all":
        return _all_engines(args)
    found = _of_student(args) if args.checkpoint else _of_shape(args)
    body = {**machine(), **found, "dtype": args.dtype, "threads": args.threads}
    print(
        f"{body['shape']}: {body['layers_executed']:.2f} of {body['layers_total']} layers take "
        f"{body['decoder_ms_plan']:.2f} ms, all take {body['decoder_ms_full']:.2f} ms: {1 / body['ratio']:.2f} × "
        f"faster ({body['share_of_ideal']:.0%} of the ideal); router {body['router_share']:.1%}"
    )
    if "step_ratio" in body:
        full, part = body["step_ms_full"], body["step_ms_plan"]
        print(f"whole step: {part:.2f} of {full:.2f} ms, {full / part:.2f} × faster")
    if args.json:
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


def _all_engines(args: argparse.Namespace) -> int:
    from actdistill_ros.bench import engines
    from actdistill_ros.policy.runtime import PolicyRuntime

    if not args.checkpoint:
        raise ContractError(
            "--engine all compares whole steps: name a --checkpoint, models/tabletop-student for example"
        )
    student = PolicyRuntime.load(args.checkpoint)
    student.set_budget(args.budget)
    found = engines.compare(student, _frames(), args.seconds)
    print(engines.table(found))
    if args.json:
        body = {**machine(), "shape": str(args.checkpoint), **found, "dtype": args.dtype, "threads": args.threads}
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


@torch.inference_mode()
def _of_shape(args: argparse.Namespace) -> dict:
    shape, dtype = SHAPES[args.shape], DTYPES[args.dtype]
    count = round(shape.layers * 15 / 32) if args.layers is None else args.layers
    if not 2 <= count <= shape.layers:
        raise ContractError(f"--layers {count} is not in 2 … {shape.layers}: first and last always run")
    decoder = random_decoder(shape, dtype)
    router = Router(shape.width, 32, shape.layers, shape.vision).to(dtype).eval()
    tokens = torch.randn(1, shape.tokens, shape.width).to(dtype)
    present, budget = torch.ones(1, shape.tokens, dtype=torch.bool), torch.tensor([0.47], dtype=dtype)
    kept = {0, shape.layers - 1, *np.linspace(1, shape.layers - 2, count - 2).round().astype(int).tolist()}
    plan = [i in kept for i in range(shape.layers)]
    full_ms, plan_ms, router_ms = side_by_side(
        (
            lambda: decoder(tokens, present),
            lambda: decoder(tokens, present, plan),
            lambda: router(tokens, present, budget).tolist(),
        ),
        args.seconds,
    )
    return _ratios(args.shape, shape.layers, sum(plan), full_ms, plan_ms) | {
        "router_share": router_ms / (plan_ms + router_ms)
    }


def _of_student(args: argparse.Namespace) -> dict:
    from actdistill_ros.policy.engine import TorchEngine
    from actdistill_ros.policy.runtime import PolicyRuntime

    if args.dtype != "fp32":
        raise ContractError("a checkpoint runs as it was saved, in fp32; leave --dtype out, or measure a --shape")
    student = PolicyRuntime.load(args.checkpoint)
    student.set_budget(args.budget)
    if args.engine == "torch":
        student = student.with_engine(TorchEngine(student.model))
    teacher = student.with_plan([True] * student.layers)
    observations = _frames()
    results: dict[str, list] = {"full": [], "plan": []}
    start, rounds = time.monotonic(), 0
    while rounds < 3 or time.monotonic() - start < args.seconds:
        for observation in observations:
            for name, runtime in (("full", teacher), ("plan", student)):
                result = runtime.step(observation)
                if rounds:  # the first round warms up
                    results[name].append(result)
        rounds += 1

    def p50(way: str, stage: str) -> float:
        return float(np.median([r.latency_ms[stage] for r in results[way]]))

    layers = float(np.mean([r.executed.sum() for r in results["plan"]]))
    found = _ratios(str(args.checkpoint), student.layers, layers, p50("full", "decoder"), p50("plan", "decoder"))
    tails = {
        f"{stage}_ms_{way}_p95": float(np.percentile([r.latency_ms[stage] for r in results[way]], 95))
        for stage in ("decoder", "step")
        for way in ("full", "plan")
    }
    router_ms = p50("plan", "router") + _evidence_ms(student, observations[0])
    return (
        found
        | tails
        | {
            "engine": student.engine,
            "budget": student.budget,
            "steps": len(results["plan"]),
            "router_ms": router_ms,
            "router_share": router_ms / p50("plan", "step"),
            "step_ms_full": p50("full", "step"),
            "step_ms_plan": p50("plan", "step"),
            "step_ratio": p50("plan", "step") / p50("full", "step"),
            "stages_ms": {way: {stage: p50(way, stage) for stage in STAGES} for way in results},
        }
    )


def _evidence_ms(student: PolicyRuntime, observation: Observation) -> float:
    """The router's part that stage `router` does not show: onnxruntime computes it along with the tokens."""
    if student.engine == "torch" or student.model.router is None:
        return 0.0
    from actdistill_ros.bench.engines import evidence_ms

    return evidence_ms(student, observation)


def _ratios(shape: str, total: int, executed: float, full_ms: float, plan_ms: float) -> dict:
    return {
        "shape": shape,
        "layers_total": total,
        "layers_executed": executed,
        "decoder_ms_full": full_ms,
        "decoder_ms_plan": plan_ms,
        "ratio": plan_ms / full_ms,
        "share_of_ideal": (executed / total) / (plan_ms / full_ms),
    }


def side_by_side(ways: tuple[Callable[[], object], ...], seconds: float) -> list[float]:
    """Median milliseconds of each, taken in turns so that a slower moment of the machine meets all alike."""
    for way in ways:
        way()
    times: list[list[float]] = [[] for _ in ways]
    start = time.monotonic()
    while len(times[0]) < 3 or time.monotonic() - start < seconds:
        for way, found in zip(ways, times, strict=True):
            begin = time.perf_counter()
            way()
            found.append((time.perf_counter() - begin) * 1e3)
    return [float(np.median(found)) for found in times]


def random_decoder(shape: Shape, dtype: torch.dtype) -> RoutedDecoder:
    """Made in its final type at once: seven billion float32 weights would not fit where as many bfloat16 do."""
    with torch.device("meta"):
        decoder = RoutedDecoder(shape.width, shape.heads, shape.feed_forward, shape.layers).to(dtype)
    rotary = RoutedDecoder(shape.width, shape.heads, 8, 0).rotary  # its table is computed, not loaded
    decoder = decoder.to_empty(device="cpu")
    decoder.rotary = rotary
    block = (torch.randn(1 << 20) * 0.02).to(dtype)
    for parameter in decoder.parameters():
        flat = parameter.data.view(-1)
        for begin in range(0, len(flat), len(block)):
            part = flat[begin : begin + len(block)]
            part.copy_(block[: len(part)])
    return decoder.eval()


def _frames() -> list:
    """Observations along the expert's way through each task, as a policy would meet them."""
    from actdistill_ros.sim.env import TabletopEnv
    from actdistill_ros.sim.staging import TASKS

    env, found = TabletopEnv(), []
    for number, task in enumerate(TASKS):
        found.append(env.reset("tabletop", task, 50_000 + number))
        while len(found) % (OBSERVATIONS // len(TASKS)):
            for _ in range(5):
                env.step(env.expert_action())
            found.append(env.observe())
    env.close()
    return found
