"""Steps a policy without pause, to load the machine as a running arm does; says `ready` after the first step."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy.runtime import PolicyRuntime


def main(folder: str) -> int:
    policy = PolicyRuntime.load(Path(folder))
    images = {c.name: np.zeros((c.source_height, c.source_width, 3), np.uint8) for c in policy.contract.cameras}
    instruction = next(iter(policy.contract.instructions), "lift the red block")
    pose, said = ArmPose(np.array([0.25, 0.0, 0.1]), np.eye(3)), False
    while True:
        policy.step(Observation(images, pose, 1.0, instruction, time.time()))
        if not said:
            print("ready", flush=True)
            said = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
