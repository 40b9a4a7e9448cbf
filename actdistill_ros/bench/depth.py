"""`actdistill bench depth`: decoder time under a plan against all layers, side by side in one process."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from actdistill_ros.bench import shapes
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy import captured, loading
from actdistill_ros.trials.report import machine

if TYPE_CHECKING:
    from actdistill_ros.contract.observation import Observation
    from actdistill_ros.policy.runtime import PolicyRuntime

OBSERVATIONS = 24
STAGES = ("preprocess", "encode", "router", "decoder", "head", "step")
CHECKPOINT_DTYPE = "fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", choices=shapes.SHAPES, default="tabletop", help="decoder with random weights (default: %(default)s)"
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
    parser.add_argument(
        "--depth", type=int, help="layers that the shape has (default: as published; fewer need less memory)"
    )
    parser.add_argument("--decode", type=int, help="words after the prompt (default: 7 of openvla-7b, none of others)")
    parser.add_argument("--dtype", choices=shapes.DTYPES, default=CHECKPOINT_DTYPE)
    parser.add_argument("--device", default="cpu", help="of a shape: cpu or cuda (default: %(default)s)")
    parser.add_argument("--capture", choices=captured.WAYS, help="of a shape: also time its plan captured in this way")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long to measure; every way runs three times or more"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    if args.checkpoint:
        loading.require_own(
            args.checkpoint,
            "--checkpoint",
            "time its decoder with random weights, as --shape openvla-7b or --shape cogact-base",
        )
    if args.engine == "all":
        return _all_engines(args)
    found = _of_student(args) if args.checkpoint else _of_shape(args)
    body = {**machine(), **found, "dtype": args.dtype, "threads": args.threads}
    _say(body)
    if args.json:
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


def _say(body: dict) -> None:
    print(
        f"{body['shape']}: {body['layers_executed']:.2f} of {body['layers_total']} layers take "
        f"{body['decoder_ms_plan']:.2f} ms, all take {body['decoder_ms_full']:.2f} ms: {1 / body['ratio']:.2f} × "
        f"faster ({body['share_of_ideal']:.0%} of the ideal); router {body['router_share']:.1%}"
    )
    if "step_ratio" in body:
        full, part = body["step_ms_full"], body["step_ms_plan"]
        print(f"whole step: {part:.2f} of {full:.2f} ms, {full / part:.2f} × faster")
    for what, name in (("decode", "{n} words after the prompt"), ("words", "prompt and {n} words")):
        if f"{what}_ratio" in body:
            full, part = body[f"{what}_ms_full"], body[f"{what}_ms_plan"]
            name = name.format(n=body["decode_tokens"])
            print(f"{name}: {part:.2f} of {full:.2f} ms, ratio {body[f'{what}_ratio']:.3f}")
    if "head_ms" in body:
        print(f"diffusion head: {body['head_ms']:.2f} ms, under every plan")
    if "capture" in body:
        print(
            f"captured ({body['capture']}): {body['captured_ms']:.2f} of {body['uncaptured_ms']:.2f} ms, "
            f"{body['capture_s']:.1f} s and {body['capture_bytes'] >> 20} MiB once, "
            f"largest difference {body['capture_difference']:.1e}"
        )


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


def _of_shape(args: argparse.Namespace) -> dict:
    shape = shapes.SHAPES[args.shape]
    if args.depth is not None:
        shape = replace(shape, decoder=replace(shape.decoder, layers=args.depth))
    layers = round(shape.decoder.layers * 15 / 32) if args.layers is None else args.layers
    decode = shape.words if args.decode is None else args.decode
    asked = shapes.Asked(shape, args.dtype, args.device, layers, decode, args.capture, args.seconds)
    found = {"shape": args.shape, **shapes.measure(asked)}
    if asked.device.startswith("cuda"):
        found |= {"processor": machine()["device"], "device": torch.cuda.get_device_name(asked.device)}
    return found


def _of_student(args: argparse.Namespace) -> dict:
    from actdistill_ros.policy.engine import TorchEngine
    from actdistill_ros.policy.runtime import PolicyRuntime

    if args.dtype != CHECKPOINT_DTYPE or args.device != "cpu" or args.capture:
        raise ContractError(
            "a checkpoint runs as it was saved, in fp32 on the CPU; leave --dtype, --device and --capture out, or "
            "measure a --shape"
        )
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
