"""Steps a policy without pause, as `inference_node` does by default; says `ready` after the first step, or why not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from actdistill_ros import priority
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation

READY, REFUSED = "ready", "refused: "


def main(folder: str, nice: int = 5, threads: int = 0) -> int:
    """nice, threads: as the parameters of the node."""
    # Imported late: whoever waits for this process reads what it says from this module, and computes with nothing.
    from actdistill_ros.policy import loading
    from actdistill_ros.policy.runtime import PolicyRuntime
    from actdistill_ros.policy.threads import use_threads

    priority.step_back(nice)
    use_threads(threads)
    try:
        loading.require_own(Path(folder), "--checkpoint", "the bundled models/tabletop-student is one")
        policy = PolicyRuntime.load(Path(folder))
    except (ContractError, OSError) as error:
        print(f"{REFUSED}{error}", flush=True)
        return 2
    images = {c.name: np.zeros((c.source_height, c.source_width, 3), np.uint8) for c in policy.contract.cameras}
    instruction = next(iter(policy.contract.instructions), "lift the red block")
    pose, said = ArmPose(np.array([0.25, 0.0, 0.1]), np.eye(3)), False
    while True:
        policy.step(Observation(images, pose, 1.0, instruction, time.time()))
        if not said:
            print(READY, flush=True)
            said = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
