"""One task at a time, from its instruction to the reason why it ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from actdistill_ros.contract.contract import ContractError

START_S = 15.0
"""How long arm and cameras may take to be there: the nodes of a graph come up side by side."""
ANSWER_S = 1.0
"""How long the driver may take to answer before it is asked again: an answer sent to a client that the driver has not
discovered yet is lost."""
UNJUDGED = "unjudged"
"""The only verdict a policy can give of itself."""
TIMEOUT, CANCELLED = "timeout", "cancelled"


class Phase(Enum):
    """Where a task stands."""

    IDLE = "idle"
    WAITING = "waiting"  # for arm and cameras to be there
    ENTERING = "entering"  # the arm was asked to follow the policy
    RUNNING = "running"


class TaskRefused(ValueError):
    """A task that cannot start; the text says why."""


@dataclass(frozen=True)
class TaskReport:
    """How the task started last stands; see srv/TaskStatus."""

    running: bool
    instruction: str
    verdict: str
    reason: str
    steps: int
    seconds: float


class Task:
    """The state of the task started last. Not thread-safe.

    `number` grows with each task, so that an answer to an earlier one is recognised.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.phase, self.number = Phase.IDLE, 0
        self._instruction = self._verdict = self._reason = ""
        self._began_s = self._seconds = self._asked_s = 0.0
        self._holding_s = -math.inf
        self._timeout_s = math.inf
        self._steps = 0

    @property
    def instruction(self) -> str:
        return self._instruction

    def begin(self, instruction: str, timeout_s: float) -> None:
        """Start waiting for arm and cameras; `timeout_s` (inf: none) counts from here.

        Raises TaskRefused if another task runs or the request makes no sense.
        """
        instruction = " ".join(instruction.split())
        if self.phase is not Phase.IDLE:
            raise TaskRefused(f"the task {self._instruction!r} is running; cancel it first")
        if not instruction:
            raise TaskRefused("the instruction is empty; say in words what the arm should do")
        if not timeout_s > 0:
            raise TaskRefused(f"the timeout is {timeout_s} s, expected more than 0 (or 0 for the node's default)")
        self.phase, self.number = Phase.WAITING, self.number + 1
        self._instruction, self._timeout_s = instruction, timeout_s
        self._verdict = self._reason = ""
        self._began_s, self._steps = self._clock(), 0

    def holding(self) -> None:
        """The arm was asked to hold, for a task that is over; until it has answered it is not asked to follow the next
        one: of two requests on their way the older may come last."""
        self._holding_s = self._clock()

    def held(self) -> None:
        """The arm has answered that it holds, or has nothing to stop."""
        self._holding_s = -math.inf

    def asked(self) -> None:
        """The arm was asked to follow the policy."""
        self.phase, self._asked_s = Phase.ENTERING, self._clock()

    def may_ask(self, missing: str) -> bool:
        """Now is the time to ask the arm: all is there, or it has not answered; to ask again does no harm."""
        now_s = self._clock()
        if self.phase is Phase.ENTERING:
            return now_s - self._asked_s >= ANSWER_S
        return self.phase is Phase.WAITING and not missing and now_s - self._holding_s >= ANSWER_S

    def entered(self) -> None:
        """The arm follows the policy."""
        self.phase = Phase.RUNNING

    def stepped(self) -> None:
        self._steps += 1

    def overdue(self, missing: str = "") -> str:
        """Why time ends the task now; empty if it does not. `missing`: what a start still waits for."""
        passed_s = self._clock() - self._began_s
        if self.phase is Phase.IDLE:
            return ""
        if passed_s >= self._timeout_s:
            return TIMEOUT
        if self.phase is not Phase.RUNNING and passed_s >= START_S:
            return missing or "arm: arm/set_mode does not answer; is arm_driver_node running?"
        return ""

    def end(self, reason: str) -> TaskReport:
        """The task is over; whether it was achieved is for others to judge."""
        self.phase = Phase.IDLE
        self._verdict, self._reason, self._seconds = UNJUDGED, reason, self._clock() - self._began_s
        return self.report()

    def report(self) -> TaskReport:
        running = self.phase is not Phase.IDLE
        seconds = self._clock() - self._began_s if running else self._seconds
        return TaskReport(running, self._instruction, self._verdict, self._reason, self._steps, seconds)


def timeout(requested_s: float, default_s: float) -> float:
    """What a request's timeout means: 0 is the default, and a default of 0 is none. Raises TaskRefused."""
    if not (math.isfinite(requested_s) and requested_s >= 0):
        raise TaskRefused(f"the timeout is {requested_s} s, expected 0 (the node's default) or more")
    return requested_s or default_s or math.inf


def blame(error: Exception) -> str:
    """Reason of a step that failed."""
    return f"contract: {error}" if isinstance(error, ContractError) else f"policy: {error!r}"
