"""How LIBERO is run, as the OpenVLA evaluation published it: every number of it stands here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRIALS_PER_TASK = 50
"""One for each initial state that the suite's files hold for judging."""
POLICY_SEED = 7
"""Seeds what the policy draws; OpenVLA decodes greedily and draws nothing."""
SIMULATOR_SEED = 0
"""Seeds numpy once per task, after the task's world was built. The files fix where objects and arm are; where the
furniture stands is drawn anew, within a centimetre, in each reset. So trial k needs the draws of trials 0 … k − 1."""
SETTLING_STEPS = 10
"""Objects are put a little above what they lie on; they fall before the policy looks for the first time."""
FRAME_PIXELS = 256
PERIOD_S = 0.05

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Actions of the policy before a trial counts as a failure; settling steps come on top."""
TASKS = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
SUITES = tuple(MAX_STEPS)


def still() -> np.ndarray:
    """(7,) the action that changes nothing and keeps the gripper open; what settling steps do."""
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Episode:
    """number: its place in the order of the report; task: of the suite; trial: which initial state of that task."""

    number: int
    task: int
    trial: int


def schedule(suite: str, count: int | None = None) -> tuple[Episode, ...]:
    """The episodes of a run. Tasks take turns, so a short run visits all of them; `count` None is the whole protocol.

    Raises ValueError if the count is not one that the suite has.
    """
    tasks = TASKS[suite]
    whole = tasks * TRIALS_PER_TASK
    count = whole if count is None else count
    if not 1 <= count <= whole:
        raise ValueError(f"--episodes is {count}; {suite} has 1 … {whole} ({tasks} tasks × {TRIALS_PER_TASK} trials)")
    return tuple(Episode(i, i % tasks, i // tasks) for i in range(count))
