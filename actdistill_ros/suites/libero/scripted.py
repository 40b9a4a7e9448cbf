"""A script that does nine of the ten tasks of libero_spatial by reading where the simulator's objects are.

It shows that the benchmark runs, not what a policy can see. It never reaches the bowl in the drawer, whose walls leave
no room for its one way to grasp, and so also shows what a failure at the step limit looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.suites.policy import Decision, Look

NAME = "scripted"
SUITE = "libero_spatial"
BOWL, PLATE = "akita_black_bowl_1", "plate_1"

RIM_M = np.array([0.0, 0.047, 0.0])
"""From the bowl's centre to where a finger goes to either side of its wall; the fingers part along y."""
GRASP_M, CLEAR_M, RELEASE_M = 0.040, 0.14, 0.058  # TCP above bowl, above bowl, above plate
CARRY_M = 1.20  # TCP in the world, over everything that stands on the table
NEAR_M = 0.012
GRIP_STEPS, LET_GO_STEPS = 12, 6
STEP_M = 0.05
"""What an action of 1 asks of the controller."""
GAIN = 5.0
OPEN, CLOSED = -1.0, 1.0


@dataclass(frozen=True)
class Stage:
    """Go there [m], with the gripper so; over once there, or after `steps`."""

    goal: np.ndarray
    gripper: float
    steps: int | None = None


class Scripted:
    """Grasps the bowl by its rim and puts it on the plate, stage after stage."""

    identity, protocol = NAME, "OpenVLA's"
    cameras: tuple[str, ...] = ()

    def begin(self, instruction: str) -> None:
        self._stage, self._steps = 0, 0
        self._stages: tuple[Stage, ...] = ()

    def act(self, look: Look) -> Decision:
        tcp = look.state[:3]
        if not self._stages:
            self._stages = stages(look.objects[BOWL][:3], look.objects[PLATE][:3])
        stage = self._stages[self._stage]
        self._steps += 1
        over = np.linalg.norm(stage.goal - tcp) < NEAR_M if stage.steps is None else self._steps >= stage.steps
        if over and self._stage + 1 < len(self._stages):
            self._stage, self._steps = self._stage + 1, 0
        return Decision(approach(tcp, stage.goal, stage.gripper)[None])


def stages(bowl: np.ndarray, plate: np.ndarray) -> tuple[Stage, ...]:
    """The whole way, from where the two objects are at the start, (3,) each [m] in the world."""
    rim, over_plate = bowl + RIM_M, plate + RIM_M
    return (
        Stage(rim + [0, 0, CLEAR_M], OPEN),
        Stage(rim + [0, 0, GRASP_M], OPEN),
        Stage(rim + [0, 0, GRASP_M], CLOSED, GRIP_STEPS),
        Stage(np.array([rim[0], rim[1], CARRY_M]), CLOSED),
        Stage(np.array([over_plate[0], over_plate[1], CARRY_M]), CLOSED),
        Stage(over_plate + [0, 0, RELEASE_M], CLOSED),
        Stage(over_plate + [0, 0, RELEASE_M], OPEN, LET_GO_STEPS),
        Stage(over_plate + [0, 0, CLEAR_M], OPEN),
    )


def approach(tcp: np.ndarray, goal: np.ndarray, gripper: float) -> np.ndarray:
    """(7,) one action towards the goal, at full speed until near."""
    action = np.zeros(7)
    action[:3] = np.clip((goal - tcp) * GAIN / STEP_M, -1.0, 1.0)
    action[6] = gripper
    return action
