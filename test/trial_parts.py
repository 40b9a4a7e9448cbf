"""A robot and a judge that follow a script on a clock that only moves when somebody waits."""

from __future__ import annotations

from actdistill_ros.trials.protocol import Ended, Judgement


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Robot:
    """Runs every task until its time is up, or until cancelled if `obeys`; four steps a second."""

    def __init__(
        self,
        clock: Clock,
        answers: bool = True,
        obeys: bool = True,
        ends_after_s: float | None = None,
        ends_because: str = "arm: HOLD: policy silent for 1.0 s",
    ) -> None:
        self.clock, self.answers, self.obeys = clock, answers, obeys
        self.ends_after_s, self.ends_because = ends_after_s, ends_because
        self.started: list[tuple[str, float]] = []
        self.cancelled: list[float] = []

    def start(self, instruction: str, timeout_s: float) -> None:
        self.began, self.timeout_s, self.stopped = self.clock(), timeout_s, False
        self.started.append((instruction, timeout_s))

    def ended(self) -> Ended | None:
        steps, seconds = self.progress()
        if self.stopped:
            return Ended("cancelled", steps, seconds)
        if self.ends_after_s is not None and seconds >= self.ends_after_s:
            return Ended(self.ends_because, steps, seconds)
        if self.answers and seconds >= self.timeout_s:
            return Ended("timeout", steps, seconds)
        return None

    def cancel(self) -> None:
        self.cancelled.append(self.clock())
        self.stopped = self.obeys

    def progress(self) -> tuple[int, float]:
        seconds = self.clock() - self.began
        return int(4 * seconds), seconds


class Judge:
    """Sees success `achieved_after_s` after staging, for the tasks that it knows."""

    def __init__(self, clock: Clock, achieved_after_s: dict[str, float]) -> None:
        self.clock, self.achieved_after_s = clock, achieved_after_s
        self.staged: list[tuple[str, int]] = []

    def stage(self, trial) -> str:
        self.trial, self.began = trial, self.clock()
        self.staged.append((trial.task, trial.seed))
        return f"do {trial.task}"

    def look(self) -> Judgement | None:
        judgement = self.decide()
        return judgement if judgement.verdict == "success" else None

    def decide(self) -> Judgement:
        done = self.clock() - self.began >= self.achieved_after_s.get(self.trial.task, float("inf"))
        return Judgement("success", "it is there") if done else Judgement("failure", "it is not there")
