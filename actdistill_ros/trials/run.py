"""`actdistill trials`: task trials through the running graph, one after the other, with a report."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from actdistill_ros import bringup
from actdistill_ros.launch_arguments import ARGUMENTS
from actdistill_ros.trials import pace, report
from actdistill_ros.trials.graph import GraphProcess
from actdistill_ros.trials.judges import Operator, World
from actdistill_ros.trials.protocol import TICK_S, Judge, Result, Robot, Trial, TrialsError, plan, run_trial
from actdistill_ros.trials.video import Film, caption

_LAUNCH = {argument.name: argument for argument in ARGUMENTS}
START_S = 180.0
"""How long a graph may take from start to its first task: loading weights on a busy machine takes a while."""
FPS = round(1 / TICK_S)
TIMEOUT_S = {"tabletop": 20.0, "tabletop-hard": 40.0}
"""What the suites' own step limits take, 12 s a goal, and some for thinking."""
INTERRUPTED = 130
PICTURES = ("policy/overlay", "camera/front/image_raw")
"""What the film shows: the first of these topics that gives any picture."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    by_suite = ", ".join(f"{seconds:g} in {suite}" for suite, seconds in TIMEOUT_S.items())
    for name in ("hardware", "checkpoint", "device", "suite", "namespace"):
        argument = _LAUNCH[name]
        choices = argument.choices or None
        parser.add_argument(
            f"--{name}",
            default=argument.default,
            choices=choices,
            help=f"{argument.meaning} (default: {argument.default or 'none'})",
        )
    parser.add_argument(
        "--tasks",
        default=",".join(_LAUNCH["task"].choices),
        help="tasks in turn, comma separated (default: %(default)s)",
    )
    parser.add_argument("--trials", type=int, default=8, help="how many in all (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=100_000, help="seed of the first scene; it counts up (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="S", help=f"seconds for each trial (default: by suite, {by_suite})"
    )
    parser.add_argument("--held-out", action="store_true", help="word the instructions as training never did")
    parser.add_argument(
        "--judge", choices=("world", "operator"), help="who gives the verdict (default: world in simulation)"
    )
    parser.add_argument(
        "--instruction",
        action="append",
        default=[],
        help="sentence for the operator's trials, in turn; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="report; written after every trial")
    parser.add_argument("--video", type=Path, metavar="FILE", help="film of the trials (.mp4)")
    parser.add_argument("--resume", action="store_true", help="go on with the trials that the report does not have yet")
    parser.add_argument(
        "--attach", action="store_true", help="use the graph that runs already, instead of starting one"
    )


def run(args: argparse.Namespace) -> int:
    tasks = [task.strip() for task in args.tasks.split(",")]
    if unknown := set(tasks) - set(_LAUNCH["task"].choices):
        raise TrialsError(f"unknown task {', '.join(sorted(unknown))}; known: {', '.join(_LAUNCH['task'].choices)}.")
    judge = args.judge or ("operator" if args.hardware == "real" else "world")
    timeout_s = TIMEOUT_S[args.suite] if args.timeout is None else args.timeout
    if not timeout_s > 0:
        raise TrialsError(f"--timeout {timeout_s:g} leaves a trial no time; give seconds above 0.")
    trials = plan(args.checkpoint, tasks, args.trials, args.seed, args.instruction if judge == "operator" else ())
    settings = {
        "checkpoint": args.checkpoint, "suite": args.suite, "hardware": args.hardware, "judge": judge,
        "seed": args.seed, "timeout_s": timeout_s, "held_out": args.held_out,
    }  # fmt: skip
    for path in (args.json, args.video):
        _check_writable(path)
    results = report.done(args.json, trials, settings, args.resume)
    known = {(result.task, result.seed) for result in results}
    todo = [trial for trial in trials if (trial.task, trial.seed) not in known]
    interrupted, slow = False, ""
    if todo:
        print(
            f"{len(todo)} trials to make" + (f", {len(results)} are in {args.json} already" if results else ""),
            flush=True,
        )
        interrupted, slow = _make(args, judge, todo, results, len(trials), settings)
    print(report.table(results))
    if slow:
        print(f"WARNING: {slow}")
    if interrupted:
        print(f"interrupted after {len(results)} of {len(trials)} trials" + ("; --resume goes on" if args.json else ""))
    return INTERRUPTED if interrupted else 0


def _make(
    args: argparse.Namespace, judge_name: str, todo: list[Trial], results: list[Result], planned: int, settings: dict
) -> tuple[bool, str]:
    """Bring up what is needed and make the trials; `results` grows as they end.

    Returns whether it was interrupted, and what made the loop too slow to count, if anything did.
    """
    values = {name: getattr(args, name) for name in ("hardware", "checkpoint", "device", "namespace")}
    values |= {"suite": args.suite, "task": todo[0].task, "seed": str(todo[0].seed)}
    graph = bringup.plan(values)
    steps_per_s = _steps_per_s(graph)

    def save(found: list[Result]) -> None:
        if args.json:
            report.write(args.json, found, planned, settings, pace.measure(found, steps_per_s))

    with contextlib.ExitStack() as stack:
        # Whoever ends this process politely ends the graph with it, also from a script, which has SIGINT ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, signal.default_int_handler))
        try:
            # Before ROS starts in this process: both ends must use the same transport.
            os.environ.update(graph.environment)
            alive = (lambda: None) if args.attach else _start(graph, values, stack)
            robot = _robot(graph, bool(args.video), alive, stack)
            judge = (
                World(graph.folder, args.suite, robot.let_go, args.held_out)
                if judge_name == "world"
                else Operator(_instruct)
            )
            stack.callback(judge.close)
            film = Film(_free(args.video), FPS) if args.video else None
            if film:
                stack.callback(film.close)
            real_time = judge.real_time_factor if isinstance(judge, World) else lambda: None
            conduct(todo, robot, judge, settings["timeout_s"], results, save, alive, film, robot.picture, real_time)
        except KeyboardInterrupt:
            return True, pace.warning(pace.measure(results, steps_per_s))
        finally:
            if results:
                save(results)
    return False, pace.warning(pace.measure(results, steps_per_s))


def conduct(
    todo: list[Trial],
    robot: Robot,
    judge: Judge,
    timeout_s: float,
    results: list[Result],
    save: Callable[[list[Result]], None],
    alive: Callable[[], None] = lambda: None,
    film: Film | None = None,
    picture: Callable[[], np.ndarray | None] = lambda: None,
    real_time: Callable[[], float | None] = lambda: None,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Make the trials, saying after each how it went and how long the rest will take.

    Raises TrialsError if the arm has an error before a trial begins: that is no attempt, and counts for nothing.
    """
    begin = clock()
    for number, trial in enumerate(todo, 1):
        name = f"{number}/{len(todo)} {trial.task}, seed {trial.seed}"

        def tick(instruction: str, name: str = name) -> None:
            alive()
            if film and (image := picture()) is not None:
                film.add(caption(image, f"{name}: {instruction}"))

        result = replace(run_trial(trial, robot, judge, timeout_s, clock, pause, tick), real_time_factor=real_time())
        if not result.steps and result.reason.startswith("arm: ERROR"):
            raise TrialsError(
                f"trial {name} could not begin, {result.reason}. {len(results)} trials are done; look after the arm, "
                "start anew and go on with --resume."
            )
        results.append(result)
        save(results)
        left_s = (clock() - begin) / number * (len(todo) - number)
        print(
            f"[{name}] {result.verdict:<8} {result.seconds:5.1f} s {result.steps:3d} steps, "
            f"{result.reason}: “{result.instruction}”"
            + (f"; about {_span(left_s)} left" if number < len(todo) else ""),
            flush=True,
        )
        if film and (image := picture()) is not None:
            for _ in range(FPS):
                film.add(caption(image, f"{name}: {result.reason}", result.verdict))


def _start(graph: bringup.Graph, values: dict[str, str], stack: contextlib.ExitStack) -> Callable[[], None]:
    """Start the graph; returns what raises once it has ended."""
    process = GraphProcess(values, graph.folder / "trials.log")
    stack.callback(process.close)
    print(f"starting the graph; its log is {process.log}", flush=True)
    return process.check


def _steps_per_s(graph: bringup.Graph) -> float:
    """How many policy steps a second the checkpoint's contract allows."""
    from actdistill_ros.policy import loading  # late: it brings torch

    (checkpoint,) = (node.parameters["checkpoint"] for node in graph.nodes if "checkpoint" in node.parameters)
    action = loading.contract(Path(checkpoint)).action
    return 1 / (action.execute * action.period_s)


def _robot(graph: bringup.Graph, pictures: bool, alive: Callable[[], None], stack: contextlib.ExitStack):
    # Imported late: arguments are refused without ROS, and before it is there.
    from actdistill_ros.nodes.trial_client import TrialClient

    client = TrialClient(graph.namespace, PICTURES if pictures else ())
    stack.callback(client.close)
    client.wait(START_S, alive)
    return client


def _instruct(trial: Trial) -> str:
    """A sentence for a scene that a person sets: the seed picks blocks, side and wording."""
    from actdistill_ros.sim.language import phrase
    from actdistill_ros.sim.layout import BLOCKS
    from actdistill_ros.sim.tasks import Goal

    rng = np.random.default_rng(trial.seed)
    block, other = rng.choice(BLOCKS, 2, replace=False)
    side = int(rng.choice([-1, 1])) if trial.task == "push" else 0
    return phrase((Goal(trial.task, str(block), str(other) if trial.task == "stack" else "", side),), rng)


def _check_writable(path: Path | None) -> None:
    """Raises TrialsError now rather than after the first trial."""
    if path is None:
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise TrialsError(f"{path} cannot be written; give a file in a folder of yours.")


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3 … if a film is there: an interrupted run's film is not thrown away."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    if free != path:
        print(f"{path} is there already; the film goes to {free}", flush=True)
    return free


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
