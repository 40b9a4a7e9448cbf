"""How SIMPLER is run, as its own scripts and CogACT's published it: every number of it stands here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Convention, Start
from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.action_spaces.sticky import GOOGLE_ROBOT_STEPS, StickyGripper
from actdistill_ros.contract.chunk import GRIPPER
from actdistill_ros.contract.observation import ArmPose


@dataclass(frozen=True)
class Task:
    """environment: its name in ManiSkill 3, or in ManiSkill 2 for those that were never brought over; steps: actions
    before an episode counts as a failure; episodes: how many start states it is judged on (None: those of its script's
    grid)."""

    environment: str
    instruction: str
    steps: int
    episodes: int | None


@dataclass(frozen=True)
class Robot:
    """One of SIMPLER's two robots.

    convention: of `contract/action_spaces`; statistics_key: of a published checkpoint; camera: what the policy sees;
    control_hz: actions per second; physics_hz: steps of the simulator per second; sticky: steps that a push of the
    gripper lasts, None where the gripper is told its opening.
    """

    name: str
    convention: Convention
    statistics_key: str
    camera: str
    control_hz: float
    physics_hz: float
    sticky: int | None
    tasks: tuple[Task, ...]


WIDOWX = Robot(
    name="widowx",
    convention=convention("simpler_widowx"),
    statistics_key="bridge_orig",
    camera="3rd_view_camera",
    control_hz=5.0,
    physics_hz=500.0,
    sticky=None,
    tasks=(
        Task("PutSpoonOnTableClothInScene-v1", "put the spoon on the towel", 120, 24),
        Task("PutCarrotOnPlateInScene-v1", "put carrot on plate", 120, 24),
        Task("StackGreenCubeOnYellowCubeBakedTexInScene-v1", "stack the green block on the yellow block", 120, 24),
        Task("PutEggplantInBasketScene-v1", "put eggplant into yellow basket", 120, 24),
    ),
)
"""ManiSkill 3's own limit is 60 steps for the first three; 120 is CogACT's for all four."""

GOOGLE_ROBOT = Robot(
    name="google_robot",
    convention=convention("simpler_google_robot"),
    statistics_key="fractal20220817_data",
    camera="overhead_camera",
    control_hz=3.0,
    physics_hz=513.0,
    sticky=GOOGLE_ROBOT_STEPS,
    tasks=(
        Task("GraspSingleOpenedCokeCanInScene-v0", "pick coke can", 80, None),
        Task("MoveNearGoogleBakedTexInScene-v0", "move … near …", 80, 60),
        *(
            Task(f"{verb}{place}DrawerCustomInScene-v0", f"{verb} {place} drawer".lower(), 113, None)
            for verb in ("Open", "Close")
            for place in ("Top", "Middle", "Bottom")
        ),
        Task(
            "PlaceIntoClosedTopDrawerCustomInScene-v0", "open top drawer; then place apple into top drawer", 200, None
        ),
    ),
)
ROBOTS = {robot.name: robot for robot in (WIDOWX, GOOGLE_ROBOT)}
OPENVLA_STICKY_STEPS = 15
"""SIMPLER's adapter for OpenVLA holds the Google robot's push for longer than CogACT's."""


class Actions:
    """From the product's actions to what one of SIMPLER's robots takes, one after the other; keeps the gripper's
    past."""

    def __init__(self, robot: Robot, sticky: int | None = None) -> None:
        """sticky: another length of a push than the robot's, for checkpoints that were published with another."""
        self._robot = robot
        self._gripper = StickyGripper(sticky or robot.sticky) if robot.sticky else None

    def reset(self) -> None:
        """Another episode begins."""
        if self._gripper:
            self._gripper.reset()

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """action: (7,) metres, rotation vector [rad], opening 0 … 1. Returns (7,) world vector [m], rotation vector
        [rad], and −1 closed … 1 open (WidowX) or a push, + closing (Google robot). Raises ContractError if it is no
        action.
        """
        sent = self._robot.convention.from_product(np.asarray(action, dtype=float)[None], _ANYWHERE)[0]
        if self._gripper:
            sent[GRIPPER] = self._gripper(float(action[GRIPPER]))
        return sent


_ANYWHERE = Start(ArmPose(np.zeros(3), np.eye(3)), 1.0)  # deltas along the base's axes do not depend on it
