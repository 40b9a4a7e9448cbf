"""Who stages scenes and gives verdicts: the simulated world, or a person at the prompt."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Client
from pathlib import Path

from actdistill_ros.sim.protocol import WORLD, endpoint, recv_json, send_json
from actdistill_ros.trials.protocol import FAILURE, SUCCESS, UNJUDGED, Judgement, Skipped, Trial, TrialsError

ANSWER_S = 20.0
POWER_OFF_S, POLL_S = 2.0, 0.05


class World:
    """The simulator's own verdict, asked over `world.sock`.

    let_go: makes the driver take the power off the motors; nobody moves an arm, or the things around it, under power.
    held_out: instructions are worded as training never did.
    """

    def __init__(
        self,
        folder: Path,
        suite: str,
        let_go: Callable[[], None],
        held_out: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises TrialsError if no world listens in `folder`."""
        self._scene, self._let_go, self._pause = {"suite": suite, "held_out": held_out}, let_go, pause
        address = endpoint(folder, WORLD)
        try:
            self._connection = Client(address, family="AF_UNIX")
        except OSError as error:
            raise TrialsError(
                f"no simulated world listens at {address} ({error.strerror}). Start the graph with hardware:=sim "
                "in this namespace, or leave out --attach."
            ) from error

    def stage(self, trial: Trial) -> str:
        self._let_go()
        # The driver agrees at once and tells the motors with its next tick.
        for _ in range(round(POWER_OFF_S / POLL_S)):
            if not self.status().get("enabled"):
                break
            self._pause(POLL_S)
        return self._ask({"op": "reset", **self._scene, "task": trial.task, "seed": trial.seed})["instruction"]

    def look(self) -> Judgement | None:
        judgement = self.decide()
        return judgement if judgement.verdict == SUCCESS else None

    def decide(self) -> Judgement:
        answer = self._ask({"op": "verdict"})
        return Judgement(SUCCESS if answer["success"] else FAILURE, answer.get("reason", ""))

    def status(self) -> dict:
        """How the world runs, such as its real-time factor."""
        return self._ask({"op": "status"})

    def real_time_factor(self) -> float:
        """How fast the world ran over its last seconds; 1.0 is as fast as the clock."""
        return self.status()["rtf"]

    def close(self) -> None:
        self._connection.close()

    def _ask(self, request: dict) -> dict:
        try:
            send_json(self._connection, request)
            if not self._connection.poll(ANSWER_S):
                raise TrialsError(
                    f"the simulated world did not answer {request['op']!r} within {ANSWER_S:.0f} s; restart the graph."
                )
            answer = recv_json(self._connection)
        except (OSError, EOFError) as error:
            raise TrialsError(
                f"the simulated world went away at {request['op']!r} ({error!r}); see the graph's log."
            ) from error
        if "error" in answer:
            raise TrialsError(f"the simulated world refused {request['op']!r}: {answer['error']}")
        return answer


class Operator:
    """A person stages the scene and judges; every question takes s for skip, and y or n ends a running task early.

    instruct: the sentence for a trial; ask: prints a question and waits for the line; typed: a line that was typed
    meanwhile, or None.
    """

    def __init__(
        self,
        instruct: Callable[[Trial], str],
        ask: Callable[[str], str] = input,
        typed: Callable[[], str | None] | None = None,
    ):
        self._instruct, self._ask_line, self._typed = instruct, ask, typed or _typed_line

    def stage(self, trial: Trial) -> str:
        instruction = trial.instruction or self._instruct(trial)
        question = f"\n{trial.task}, seed {trial.seed}: set the scene for “{instruction}”.\nEnter starts, s skips: "
        if self._ask(question, ("", "s")) == "s":
            raise Skipped("by the operator")
        print("running; y or n and Enter ends it early with that verdict", flush=True)
        return instruction

    def look(self) -> Judgement | None:
        answer = (self._typed() or "").strip().lower()
        return _judgement(answer) if answer in ("y", "n", "s") else None

    def decide(self) -> Judgement:
        return _judgement(self._ask("Was the task achieved? y, n, or s to skip: ", ("y", "n", "s")))

    def close(self) -> None:
        pass

    def _ask(self, question: str, answers: tuple[str, ...]) -> str:
        while True:
            try:
                answer = self._ask_line(question).strip().lower()
            except EOFError as error:
                raise TrialsError(
                    "nobody is at the prompt (standard input has ended); run trials in a terminal."
                ) from error
            if answer in answers:
                return answer


def _judgement(answer: str) -> Judgement:
    return Judgement({"y": SUCCESS, "n": FAILURE, "s": UNJUDGED}[answer], "by the operator")


def _typed_line() -> str | None:
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return sys.stdin.readline() if ready else None
