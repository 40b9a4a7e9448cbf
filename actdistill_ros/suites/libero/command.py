"""`actdistill eval --suite libero_…`: a policy judged on LIBERO as published, resumable, with intervals."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.suites import report
from actdistill_ros.suites.libero import environment, episode, policies, protocol
from actdistill_ros.suites.policy import SuitePolicy
from actdistill_ros.suites.record import Ended, Record
from actdistill_ros.suites.world import World

ROOT = Path("runs/eval")
FIRST_VIEW = ("agentview",)
"""Rendered once per episode for a policy that does not look at all, so that its report still says what was to be
seen."""


def run(args: argparse.Namespace) -> int:
    """args: those of `actdistill eval`. Exit code 0 once all episodes are there."""
    try:
        episodes = protocol.schedule(args.suite, args.episodes)
    except ValueError as error:
        raise ContractError(str(error)) from error
    environment.python(args.libero)
    policy = policies.load(args)
    settings = {
        "benchmark": "LIBERO",
        "suite": args.suite,
        "checkpoint": policy.identity,
        "seed": protocol.POLICY_SEED if args.seed is None else args.seed,
        "plan": args.plan,
        "budget_asked": args.budget,
        "cameras": list(policy.cameras or FIRST_VIEW),
        "simulator_seed": protocol.SIMULATOR_SEED,
        "settling_steps": protocol.SETTLING_STEPS,
        "max_steps": protocol.MAX_STEPS[args.suite],
        **policies.told(args.checkpoint),
    }
    print(f"protocol: {policy.protocol}", flush=True)
    folder = args.out or ROOT / f"{args.suite}-{policy.identity}"
    log = folder / "world.log"
    with Record(folder, settings) as record:
        missing = [e for e in episodes if e.number not in record.ended]
        if kept := len(episodes) - len(missing):
            print(f"{kept} of {len(episodes)} episodes are in {folder} already")
        with environment.start(
            args.libero, args.suite, protocol.FRAME_PIXELS, policy.cameras or FIRST_VIEW, log
        ) as world:
            try:
                for ended in _run(world, policy, args.suite, missing, record):
                    record.add(ended)
            except KeyboardInterrupt:
                print(f"\n{len(record.ended)} episodes are kept in {folder}; the same command goes on", file=sys.stderr)
                raise
            settings |= {"benchmark_versions": dict(world.versions), "threads_torch": args.threads}
            settings["protocol"] = policy.protocol
            tasks = world.tasks
        found = report.body([record.ended[e.number] for e in episodes], tasks, settings)
    print(report.table(found))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _run(
    world: World, policy: SuitePolicy, suite: str, missing: Sequence[protocol.Episode], record: Record
) -> Iterator[Ended]:
    """Task after task, for a world takes seconds to build; trials ascend within each, as the drawn furniture needs it.
    The caller must have added an episode to the record before it asks for the next."""
    start, built = time.monotonic(), None
    for count, planned in enumerate(sorted(missing, key=lambda e: (e.task, e.trial)), 1):
        if planned.task != built or planned.trial == 0:
            world.build(planned.task, protocol.SIMULATOR_SEED)
            built = planned.task
        ended = episode.run(world, policy, suite, planned, _draws_before(planned, record))
        yield ended
        left = (time.monotonic() - start) / count * (len(missing) - count)
        good = sum(e.success for e in record.ended.values())
        print(
            f"{len(record.ended)} done, {good} succeeded  task {ended.task} trial {ended.trial}: "
            f"{'success' if ended.success else 'failure'} after {ended.steps} steps  {_duration(left)} left",
            flush=True,
        )


def _draws_before(planned: protocol.Episode, record: Record) -> str | None:
    """The random state that the trial before left, in this process or in one that was killed; None for a first
    trial."""
    before = [e.draws for e in record.ended.values() if (e.task, e.trial) == (planned.task, planned.trial - 1)]
    if planned.trial and not before:
        raise ContractError(
            f"trial {planned.trial} of task {planned.task} needs the trial before it, which {record.folder} lacks. "
            "Give another --out."
        )
    return before[0] if before else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
