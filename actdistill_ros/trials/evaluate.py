"""`actdistill eval`: closed-loop success of a checkpoint in the simulator, without ROS, as fast as the machine goes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.sim.staging import SUITES, TASKS, check
from actdistill_ros.suites.libero import protocol as libero
from actdistill_ros.trials.interval import wilson
from actdistill_ros.trials.report import machine

BLOCK_PLACE = slice(-6, -3)  # of `aux_targets`: the block that matters
FILM_LIMIT = 12  # failures that a film shows
EPISODES, SEED = 200, 100_000  # on the tabletop
TABLETOP_ONLY, LIBERO_ONLY = ("task", "held_out", "execute", "workers", "video"), ("out", "libero")


@dataclass(frozen=True)
class Order:
    """One worker's episodes: (number, task, seed) each."""

    checkpoint: Path
    suite: str
    episodes: tuple[tuple[int, str, int], ...]
    held_out: bool
    execute: int | None
    film: bool
    threads: int
    budget: float | None
    plan: str


@dataclass(frozen=True)
class Outcome:
    """One episode. first_mm: how far off the first look placed the block that mattered, None if the policy places none;
    frequency: share of the steps in which each layer ran; phases: of each step, with the share of the decoder it ran;
    frames: front camera, of failures only."""

    number: int
    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    first_mm: float | None
    step_ms: tuple[float, ...]
    decoder_ms: tuple[float, ...]
    router_ms: tuple[float, ...]
    budget: float
    frequency: tuple[float, ...]
    phases: tuple[tuple[str, float], ...]
    frames: np.ndarray | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder; or `scripted`, which tries libero_spatial out"
    )
    parser.add_argument("--suite", choices=(*SUITES, *libero.SUITES), default="tabletop")
    parser.add_argument(
        "--episodes",
        type=int,
        help=f"tasks take turns: episode i is task i mod 4 with seed + i (tabletop, default {EPISODES}), or the next "
        f"trial of task i mod 10 (LIBERO, default: all, {libero.TRIALS_PER_TASK} of each)",
    )
    parser.add_argument("--seed", type=int, help=f"default {SEED} (LIBERO: {libero.POLICY_SEED}, of the policy)")
    parser.add_argument("--task", choices=TASKS, help="this task only")
    parser.add_argument("--held-out", action="store_true", help="instructions phrased as training never phrased them")
    parser.add_argument("--execute", type=int, help="actions run per chunk (default: what the contract says)")
    parser.add_argument(
        "--budget", type=float, help="share of decoder compute (default: what the checkpoint was made for)"
    )
    parser.add_argument(
        "--plan",
        default="router",
        help="router (default; all layers where there is none), random (drawn anew in each step, within --budget), "
        "or the layers to run: 0,1,2,11",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core; one for a published model)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each worker")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    parser.add_argument("--video", type=Path, help=f"film of the first {FILM_LIMIT} failures")
    parser.add_argument("--out", type=Path, help="LIBERO: folder of the run, which goes on there if it was stopped")
    parser.add_argument("--libero", type=Path, help="LIBERO: its Python environment (default: .venv-libero)")


def run(args: argparse.Namespace) -> int:
    elsewhere = TABLETOP_ONLY if args.suite in libero.SUITES else LIBERO_ONLY
    if useless := [name.replace("_", "-") for name in elsewhere if getattr(args, name) not in (None, False)]:
        raise ContractError(f"--{useless[0]} says nothing about suite {args.suite}; leave it out")
    if args.suite in libero.SUITES:
        from actdistill_ros.suites.libero import command

        return command.run(args)
    args.episodes = EPISODES if args.episodes is None else args.episodes
    args.seed = SEED if args.seed is None else args.seed
    return tabletop(args)


def tabletop(args: argparse.Namespace) -> int:
    from actdistill_ros.policy.vla import deployment, layout
    from actdistill_ros.trials import candidate

    if args.episodes < 1:
        raise ContractError(f"--episodes is {args.episodes}, expected at least 1")
    check(args.suite, args.task)
    published = layout.is_vla(args.checkpoint)
    # Each worker has its own copy of the weights.
    args.workers = args.workers or (1 if published else os.cpu_count()) or 1
    args.dtype = deployment.read(args.checkpoint).dtype if published else "float32"
    args.device = candidate.device(args.checkpoint)
    candidate.check(args.checkpoint, args.execute, args.budget, args.plan)
    tasks = (args.task,) if args.task else TASKS
    episodes = [(i, tasks[i % len(tasks)], args.seed + i) for i in range(args.episodes)]
    outcomes = sorted(_all(args, episodes), key=lambda outcome: outcome.number)
    if len(outcomes) < len(episodes):
        print(f"only {len(outcomes)} of {len(episodes)} episodes ended; nothing is written.", file=sys.stderr)
        return 1
    body = report(outcomes, args)
    print(table(body))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    if args.video:
        _film(args.video, outcomes)
    return 0


def _all(args: argparse.Namespace, episodes: Sequence[tuple[int, str, int]]) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    queue, film = context.Queue(), args.video is not None
    orders = [
        Order(
            args.checkpoint,
            args.suite,
            tuple(episodes[i :: args.workers]),
            args.held_out,
            args.execute,
            film,
            args.threads,
            args.budget,
            args.plan,
        )
        for i in range(args.workers)
    ]
    workers = [context.Process(target=_work, args=(order, queue), daemon=True) for order in orders if order.episodes]
    for worker in workers:
        worker.start()
    outcomes, start = [], time.monotonic()
    try:
        while len(outcomes) < len(episodes) and not any(worker.exitcode not in (None, 0) for worker in workers):
            if queue.empty():
                workers[0].join(0.1)
                continue
            found = queue.get()
            if isinstance(found, ContractError):
                raise found  # one sentence, where the worker would print a page
            outcomes.append(found)
            n = len(outcomes)
            if n % 20 == 0 or n == len(episodes):
                left = (time.monotonic() - start) / n * (len(episodes) - n)
                print(
                    f"{n}/{len(episodes)}  success {np.mean([o.success for o in outcomes]):.1%}  {left:.0f} s left",
                    flush=True,
                )
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return outcomes


def _work(order: Order, queue) -> None:
    """Puts an `Outcome` per episode, or the ContractError that there is none."""
    try:
        _episodes(order, queue)
    except ContractError as error:
        queue.put(error)


def _episodes(order: Order, queue) -> None:
    os.environ["LP_NUM_THREADS"] = "1"  # read by Mesa's renderer: the workers share the cores among themselves
    import cv2
    import torch

    from actdistill_ros.sim.env import TabletopEnv
    from actdistill_ros.trials import candidate

    cv2.setNumThreads(1)
    torch.set_num_threads(order.threads)
    runtime, env = candidate.load(order.checkpoint, order.execute), TabletopEnv()
    for number, task, seed in order.episodes:
        if not multiprocessing.parent_process().is_alive():
            return  # killed without a word: a worker must not go on for nobody
        asked = candidate.planned(runtime, order.budget, order.plan, seed)
        queue.put(episode(env, asked, order, number, task, seed))
    env.close()


def episode(env, runtime, order: Order, number: int, task: str, seed: int) -> Outcome:
    """One closed loop: look, infer, run the chunk's first actions, look again."""
    runtime.reset()
    observation = env.reset(order.suite, task, seed, order.held_out)
    first_mm = _first_look_mm(env, runtime, observation)
    execute = runtime.contract.action.execute
    frames, results, phases, success = [], [], [], False
    while not success and env.steps < env.stage.task.max_steps:
        result = runtime.step(observation)
        results.append(result)
        phases.append((phase(env, result.chunk.actions[:execute]), result.compute_share))
        for action in result.chunk.actions[:execute]:
            if order.film:
                frames.append(observation.images["front"])
            success = env.step(action)
            if success:
                break
        observation = env.observe()
    return Outcome(
        number=number,
        task=task,
        seed=seed,
        instruction=env.stage.task.instruction,
        success=success,
        steps=env.steps,
        first_mm=first_mm,
        step_ms=tuple(r.latency_ms["step"] for r in results),
        decoder_ms=tuple(r.latency_ms["decoder"] for r in results),
        router_ms=tuple(r.latency_ms["router"] for r in results),
        budget=results[0].budget,
        frequency=tuple(np.mean([r.executed for r in results], axis=0).tolist()),
        phases=tuple(phases),
        frames=np.stack(frames) if order.film and not success else None,
    )


def _first_look_mm(env, runtime, observation) -> float | None:
    from actdistill_ros.data.rollout import aux_targets
    from actdistill_ros.policy.runtime import PolicyRuntime

    if not isinstance(runtime, PolicyRuntime):
        return None  # a published model was never asked where things are
    return float(np.linalg.norm((runtime.locate(observation) - aux_targets(env))[BLOCK_PLACE]) * 1e3)


def phase(env, actions: np.ndarray) -> str:
    """What a step is about: approach, grasp, carry or release, by what the gripper holds and is told; or push.

    actions: (K, 7), those that are about to be run.
    """
    from actdistill_ros.sim.tasks import held, stays_reached

    goals = env.stage.task.goals
    goal = next((g for g in goals[:-1] if not stays_reached(env.world, g)), goals[-1])
    if goal.kind == "push":
        return "push"
    if held(env.world, goal.block):
        return "release" if actions[:, 6].max() > 0.5 else "carry"
    return "grasp" if actions[:, 6].min() < 0.5 else "approach"


def report(outcomes: Sequence[Outcome], args: argparse.Namespace) -> dict:
    """The JSON body."""
    successes = [int(o.success) for o in outcomes]
    frequency = np.mean([o.frequency for o in outcomes], axis=0)
    looks = [o.first_mm for o in outcomes if o.first_mm is not None]
    return {
        **machine(args.device),
        "checkpoint": str(args.checkpoint),
        "suite": args.suite,
        "held_out_phrases": args.held_out,
        "success_rate": float(np.mean(successes)),
        "ci95": list(wilson(sum(successes), len(successes))),
        "episodes": len(outcomes),
        "seed": args.seed,
        "tasks": {
            task: _rates([o for o in outcomes if o.task == task]) for task in dict.fromkeys(o.task for o in outcomes)
        },
        "mean_steps": float(np.mean([o.steps for o in outcomes])),
        "budget": outcomes[0].budget,
        "plan": args.plan,
        "decoder_flops_share": float(frequency.mean()),
        "layers_executed_mean": float(frequency.sum()),
        "layer_frequency": frequency.tolist(),
        "phases": _phases([step for o in outcomes for step in o.phases]),
        "decoder_ms": _percentiles([t for o in outcomes for t in o.decoder_ms]),
        "router_ms": _percentiles([t for o in outcomes for t in o.router_ms]),
        "step_ms": _percentiles([t for o in outcomes for t in o.step_ms]),
        "first_look_mm": _percentiles(looks) if looks else None,
        "outcomes": successes,
        "failures": [{"task": o.task, "seed": o.seed, "instruction": o.instruction} for o in outcomes if not o.success],
        "dtype": args.dtype,
        "threads": args.threads,
        "workers": args.workers,
    }


def _rates(outcomes: Sequence[Outcome]) -> dict:
    successes = sum(o.success for o in outcomes)
    return {
        "success_rate": successes / len(outcomes),
        "episodes": len(outcomes),
        "ci95": list(wilson(successes, len(outcomes))),
        "mean_steps": float(np.mean([o.steps for o in outcomes])),
    }


def _phases(steps: Sequence[tuple[str, float]]) -> dict:
    """Steps and mean share of the decoder of each phase."""
    found: dict[str, list[float]] = {}
    for name, share in steps:
        found.setdefault(name, []).append(share)
    return {name: {"steps": len(found[name]), "decoder_share": float(np.mean(found[name]))} for name in sorted(found)}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))}


def table(body: dict) -> str:
    lines = [f"{'task':<8}{'success':>9}{'episodes':>10}{'95 % interval':>18}{'steps':>8}"]
    for name, rates in [*body["tasks"].items(), ("all", body)]:
        low, high = rates["ci95"]
        interval = f"{100 * low:.0f} … {100 * high:.0f} %"
        lines.append(
            f"{name:<8}{100 * rates['success_rate']:>7.1f} %"
            f"{rates['episodes']:>10}{interval:>18}{rates['mean_steps']:>8.1f}"
        )
    look, step, decoder = body["first_look_mm"], body["step_ms"], body["decoder_ms"]
    first = f"first look {look['p50']:.1f} mm (p95 {look['p95']:.1f}); " if look else ""
    lines.append(
        f"{first}step {step['p50']:.1f} ms (p95 {step['p95']:.1f}), decoder {decoder['p50']:.1f} ms (p95 "
        f"{decoder['p95']:.1f}); {body['workers']} workers × {body['threads']} threads"
    )
    return "\n".join(lines)


def _film(path: Path, outcomes: Sequence[Outcome]) -> None:
    from actdistill_ros.trials.video import caption, write_mp4

    failed = [o for o in outcomes if o.frames is not None][:FILM_LIMIT]
    frames = (caption(frame, o.instruction, "failure") for o in failed for frame in o.frames)
    count = write_mp4(path, frames, 10)
    print(
        f"{path}: {len(failed)} failures, {count} frames" if count else f"{path}: nothing failed, so there is no film"
    )
