"""`actdistill collect`: episodes of the simulated expert, or of a policy with the expert's labels, into a data set."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from actdistill_ros.contract.seeds import EVALUATION_SEED
from actdistill_ros.data.layout import INFO
from actdistill_ros.data.writer import Writer, finished_seeds
from actdistill_ros.sim.staging import SUITES, TASKS

FPS = 10
HARD_SHARE = 0.3


@dataclass(frozen=True)
class Job:
    """One worker's share of a recording."""

    out: Path
    seeds: tuple[int, ...]
    suite: str
    policy: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; an existing one is continued")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument(
        "--seed", type=int, default=0, help=f"first scene seed; the last must stay below {EVALUATION_SEED}"
    )
    parser.add_argument(
        "--suite", choices=(*SUITES, "mixed"), default="mixed", help=f"mixed: {HARD_SHARE:.0%}% of the hard suite"
    )
    parser.add_argument(
        "--policy", type=Path, help="checkpoint that acts instead of the expert (labels stay the expert's)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)


def run(args: argparse.Namespace) -> int:
    last = args.seed + args.episodes - 1
    if args.seed < 0 or last >= EVALUATION_SEED:
        print(
            f"seeds {args.seed} … {last} reach into the evaluation seeds (from {EVALUATION_SEED}); choose --seed "
            "lower.",
            file=sys.stderr,
        )
        return 2
    if args.policy is not None:
        _refuse_unusable(args.policy)  # else each of the processes would fail on its own
    done = finished_seeds(args.out)
    todo = [seed for seed in range(args.seed, last + 1) if seed not in done]
    random.Random(args.seed).shuffle(todo)  # else each worker would get tasks of its own, some of them longer
    print(
        f"{args.out}: {args.episodes - len(todo)} episodes are there, {len(todo)} to record with {args.workers} workers"
    )
    context = multiprocessing.get_context("spawn")
    progress = context.Queue()
    jobs = [Job(args.out, tuple(todo[i :: args.workers]), args.suite, args.policy) for i in range(args.workers)]
    workers = [context.Process(target=_work, args=(job, progress), daemon=True) for job in jobs if job.seeds]
    for worker in workers:
        worker.start()
    try:
        return _watch(workers, progress, len(todo))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        # With nothing left to record too: the recording may have been killed before this line.
        if (args.out / INFO).exists():
            from actdistill_ros.data.index import rebuild

            rebuild(args.out)


def _refuse_unusable(policy: Path) -> None:
    """Raises ContractError if it cannot act in the simulator."""
    from actdistill_ros.policy import checkpoint, loading

    loading.require_own(
        policy, "--policy", "give a checkpoint of `actdistill train` or `distill`, or leave it out for the expert"
    )
    checkpoint.load(policy)


def _watch(workers: list, progress, total: int) -> int:
    start, frames, successes, count = time.monotonic(), 0, 0, 0
    while count < total:
        if any(worker.exitcode not in (None, 0) for worker in workers):
            print(
                "a recording process died; what it had finished is kept. Run the command again to go on.",
                file=sys.stderr,
            )
            return 1
        if progress.empty():
            workers[0].join(0.2)
            continue
        length, success = progress.get()
        count, frames, successes = count + 1, frames + length, successes + success
        if count % 20 == 0 or count == total:
            left = (time.monotonic() - start) / count * (total - count)
            print(
                f"{count}/{total} episodes, {frames} frames, {successes / count:.0%} achieved, {left:.0f} s left",
                flush=True,
            )
    for worker in workers:
        worker.join()
    return 0


def suite_of(seed: int, suite: str) -> str:
    """Which suite a seed records: with `mixed`, a fixed share of the seeds is hard."""
    if suite != "mixed":
        return suite
    return "tabletop-hard" if (seed // len(TASKS)) % 10 < HARD_SHARE * 10 else "tabletop"


def _work(job: Job, progress) -> None:
    import cv2

    from actdistill_ros.data.rollout import EXTRAS, record
    from actdistill_ros.sim import layout
    from actdistill_ros.sim.env import TabletopEnv

    os.environ["LP_NUM_THREADS"] = "1"  # read by Mesa's renderer: the workers share the cores among themselves
    cv2.setNumThreads(1)
    policy = None
    if job.policy is not None:
        import torch

        from actdistill_ros.policy.runtime import PolicyRuntime

        torch.set_num_threads(1)
        runtime = PolicyRuntime.load(job.policy)

        def policy(observation):
            runtime.reset()  # how many actions of a chunk are run is drawn: what was done last, it cannot know
            return runtime.step(observation).chunk.actions

    env = TabletopEnv()
    size = (layout.FRAME_PIXELS, layout.FRAME_PIXELS)
    with Writer.open(job.out, {name: size for name in layout.CAMERAS}, FPS, "arx_x5", EXTRAS) as writer:
        for seed in job.seeds:
            if not multiprocessing.parent_process().is_alive():
                return  # killed without a word: a worker must not go on for nobody
            episode = record(env, suite_of(seed, job.suite), TASKS[seed % len(TASKS)], seed, policy)
            writer.add(episode)
            progress.put((len(episode), episode.meta["success"]))
    env.close()
