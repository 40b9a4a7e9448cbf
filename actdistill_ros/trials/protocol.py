"""How one trial goes: stage the scene, run the task, judge it; the verdict is kept apart from why it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

SUCCESS, FAILURE, UNJUDGED = "success", "failure", "unjudged"
"""Values of ExecuteTask.verdict."""

TICK_S = 0.1
LOOK_S = 0.2
SETTLE_S = 0.5
"""Between staging and start: frames of the scene before must be out of every queue."""
ANSWER_S = 10.0
"""How long after its time is up, or after a cancel, a task may take to say that it ended."""


class TrialsError(RuntimeError):
    """Trials cannot start or go on; the text says why and how to mend it."""


class Skipped(Exception):
    """The judge does not want this trial to run."""


@dataclass(frozen=True)
class Trial:
    """One attempt that is to be made; `instruction` is empty if the scene decides it."""

    checkpoint: str
    task: str
    seed: int
    instruction: str = ""


@dataclass(frozen=True)
class Judgement:
    """verdict: SUCCESS, FAILURE or UNJUDGED; words: what the judge saw."""

    verdict: str
    words: str = ""


@dataclass(frozen=True)
class Ended:
    """How the task ended, from the one who ran it: policy steps, seconds, and why."""

    reason: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """One attempt that was made; keys of an entry of the report's `trials`.

    real_time_factor: how fast the simulated world ran at the end of it; None without one.
    """

    checkpoint: str
    task: str
    seed: int
    instruction: str
    verdict: str
    reason: str
    judged: str
    seconds: float
    steps: int
    real_time_factor: float | None = None


class Robot(Protocol):
    """Whoever runs tasks. Called from one thread, one task at a time."""

    def start(self, instruction: str, timeout_s: float) -> None:
        """Begin a task. Raises TrialsError if it is refused."""

    def ended(self) -> Ended | None:
        """None while the task runs."""

    def cancel(self) -> None:
        """Ask for the end of the task; `ended` tells when it came. Nothing happens if none runs."""

    def progress(self) -> tuple[int, float]:
        """Steps and seconds so far, as far as known."""


class Judge(Protocol):
    """Whoever stages scenes and says whether tasks were achieved."""

    def stage(self, trial: Trial) -> str:
        """Set the scene and return the instruction. Raises Skipped or TrialsError."""

    def look(self) -> Judgement | None:
        """While the task runs: a judgement ends it early, None lets it go on."""

    def decide(self) -> Judgement:
        """After the task has ended by itself."""


def plan(checkpoint: str, tasks: Sequence[str], count: int, seed: int, instructions: Sequence[str] = ()) -> list[Trial]:
    """`count` trials, tasks (and instructions) in turn, seeds counting up from `seed`."""
    if not tasks or count < 1:
        raise TrialsError(f"{count} trials of tasks {', '.join(tasks) or 'none'}: expected at least one of each.")
    said = [instructions[i % len(instructions)] if instructions else "" for i in range(count)]
    return [Trial(checkpoint, tasks[i % len(tasks)], seed + i, said[i]) for i in range(count)]


def run_trial(
    trial: Trial,
    robot: Robot,
    judge: Judge,
    timeout_s: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
    on_tick: Callable[[str], None] = lambda instruction: None,
) -> Result:
    """Make one attempt. `on_tick(instruction)` is called every `TICK_S` and may raise to stop everything.

    Raises TrialsError, or whatever interrupts it, after asking the robot to stop.
    """
    try:
        instruction = judge.stage(trial)
    except Skipped as skipped:
        words = str(skipped)
        return Result(trial.checkpoint, trial.task, trial.seed, trial.instruction, UNJUDGED, "skipped", words, 0.0, 0)
    pause(SETTLE_S)
    try:
        robot.start(instruction, timeout_s)
        ended, judgement = _watch(robot, judge, timeout_s, clock, pause, lambda: on_tick(instruction))
    except BaseException:
        robot.cancel()
        raise
    if judgement is None:
        judgement = judge.decide()
        reason = ended.reason
    else:
        # That we cancelled the task is no news; that the judge saw enough is.
        reason = "achieved" if judgement.verdict == SUCCESS else "stopped by the judge"
    return Result(
        trial.checkpoint, trial.task, trial.seed, instruction,
        judgement.verdict, reason, judgement.words, round(ended.seconds, 3), ended.steps,
    )  # fmt: skip


def _watch(
    robot: Robot,
    judge: Judge,
    timeout_s: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
    on_tick: Callable[[], None],
) -> tuple[Ended, Judgement | None]:
    """Until the task ends; the judgement is the one that ended it early."""
    started = next_tick = next_look = clock()
    deadline, judgement = started + timeout_s + ANSWER_S, None
    while (ended := robot.ended()) is None:
        now = clock()
        if now > deadline:
            robot.cancel()
            steps, _ = robot.progress()
            return Ended(f"no answer from the task after {now - started:.0f} s", steps, now - started), judgement
        on_tick()
        if judgement is None and now >= next_look:
            next_look = now + LOOK_S
            judgement = judge.look()
            if judgement is not None:
                robot.cancel()
                deadline = now + ANSWER_S
        next_tick = max(next_tick + TICK_S, now)
        pause(max(0.0, next_tick - clock()))
    return ended, judgement
