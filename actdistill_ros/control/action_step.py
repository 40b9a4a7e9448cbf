"""From one action to the joints it leads to, or the reason why it must not be executed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.chunk import GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control import envelope
from actdistill_ros.control.pose import integrate
from actdistill_ros.control.settings import DriverSettings


@dataclass(frozen=True)
class ActionStep:
    """An action (7,) judged from the commanded pose `start`.

    target, q (6,) [rad], gripper: where it leads; cut: what was cut off at the workspace, in words; refusal: why it
    must not be executed; both empty if there is nothing to say.
    """

    action: np.ndarray
    start: ArmPose
    target: ArmPose
    q: np.ndarray
    gripper: float
    cut: str
    refusal: str

    def is_for(self, action: np.ndarray, start: ArmPose) -> bool:
        return self.start is start and np.array_equal(self.action, action)


def judge(action: np.ndarray, start: ArmPose, q: np.ndarray, settings: DriverSettings) -> ActionStep:
    """The action composed onto the commanded pose `start`, with joints near q (6,) [rad]."""
    wanted = integrate(start, action[TRANSLATION], action[ROTATION])
    target, cut = envelope.clamp_to_workspace(wanted, start, settings)
    solution = settings.arm.chain.solve(target, q)
    refusal = envelope.solution_refusal(solution, target, q, settings)
    for on_the_way in (solution.q, 0.5 * (q + solution.q)):
        refusal = refusal or envelope.closeness_refusal(on_the_way, q, settings)
    gripper = float(min(max(action[GRIPPER], 0.0), 1.0))
    return ActionStep(action, start, target, solution.q, gripper, cut, refusal)
