"""What `--checkpoint` may be on LIBERO: a checkpoint of this package or an OpenVLA fine-tuned there, or the word
scripted."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import Contract, ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.contract.rotation import from_rotation_vector
from actdistill_ros.suites.libero import preprocess, protocol, scripted
from actdistill_ros.suites.policy import Decision, Look, SuitePolicy

CAMERAS = ("agentview", "robot0_eye_in_hand")
FINGERS_APART_M = 0.08
LIBERO = convention("libero")
OWN = "OpenVLA's steps and seeds; pictures as this checkpoint's contract says"


class Runtime(Protocol):
    """A loaded checkpoint, as `actdistill_ros.policy.runtime.PolicyRuntime` is one; `step` answers a `StepResult`."""

    contract: Contract
    checkpoint_id: str

    def reset(self) -> None: ...

    def step(self, observation: Observation): ...


class RuntimePolicy:
    """A loaded checkpoint on LIBERO's robot: frames prepared, actions converted, each exactly once."""

    def __init__(
        self, runtime: Runtime, prepare: Callable[[np.ndarray], np.ndarray], protocol_of: str = "OpenVLA's"
    ) -> None:
        """prepare: from a frame as rendered to what the checkpoint's cameras showed in training. protocol_of: whose way
        of judging this is.

        Raises ContractError if the checkpoint is for other cameras or another rate than LIBERO's.
        """
        self.cameras = tuple(camera.name for camera in runtime.contract.cameras)
        period = runtime.contract.action.period_s
        if set(self.cameras) - set(CAMERAS) or abs(period - protocol.PERIOD_S) > 1e-6:
            raise ContractError(
                f"{runtime.checkpoint_id} is for {runtime.contract.robot}: cameras {', '.join(self.cameras)} at "
                f"{1 / period:g} Hz. LIBERO shows {', '.join(CAMERAS)} at {1 / protocol.PERIOD_S:g} Hz. Give a "
                f"checkpoint trained on LIBERO's data, or --checkpoint {scripted.NAME} to try the benchmark out."
            )
        self.identity, self.protocol = runtime.checkpoint_id, protocol_of
        self._runtime, self._prepare, self._period_s = runtime, prepare, period
        self._done = 0

    def begin(self, instruction: str) -> None:
        """What was done before was of another episode, and stamps begin anew."""
        self._runtime.reset()
        self._done = 0

    def act(self, look: Look) -> Decision:
        images = {name: self._prepare(look.images[name]) for name in self.cameras}
        result = self._runtime.step(observation(look, images, self._done * self._period_s))
        actions = LIBERO.from_product(result.chunk.actions[: result.chunk.execute])
        self._done += len(actions)
        return Decision(actions, result.executed, result.latency_ms["decoder"], result.budget)


def observation(look: Look, images: dict[str, np.ndarray], stamp_s: float) -> Observation:
    """LIBERO's state in the product's terms. Its controller counts from where the arm is, so that pose is the commanded
    one; LIBERO has no clock, and stamps count the actions run since the episode began."""
    pose = ArmPose(look.state[:3].copy(), from_rotation_vector(look.state[3:6]))
    opening = float(np.clip((look.state[6] - look.state[7]) / FINGERS_APART_M, 0.0, 1.0))
    return Observation(images, pose, opening, look.instruction, stamp_s)


def told(folder: Path) -> dict[str, object]:
    """What a published model's deployment.json says that holds on LIBERO, for the weights' name says nothing of it:
    episodes under another type, plan or chunk are of another run. Nothing where there is no such file. `load` has
    checked it."""
    from actdistill_ros.policy.vla import layout

    file = folder / layout.DEPLOYMENT
    if not file.is_file():
        return {}
    said = layout.read_json(file)
    return {"deployment": {key: value for key, value in said.items() if key not in ("camera", "frame")}}


def load(args: argparse.Namespace) -> SuitePolicy:
    """Raises ContractError for a checkpoint that cannot act on LIBERO."""
    if str(args.checkpoint) == scripted.NAME and not args.checkpoint.exists():
        if args.suite != scripted.SUITE:
            raise ContractError(f"--checkpoint {scripted.NAME} knows {scripted.SUITE} only, not {args.suite}")
        return scripted.Scripted()
    import torch

    from actdistill_ros.policy.runtime import PolicyRuntime
    from actdistill_ros.policy.vla import layout
    from actdistill_ros.suites.libero import vla
    from actdistill_ros.trials.candidate import planned

    seed = protocol.POLICY_SEED if args.seed is None else args.seed
    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    if layout.is_vla(args.checkpoint):
        runtime, prepare, whose = vla.load(args.checkpoint, args.suite)
    else:
        runtime, prepare, whose = PolicyRuntime.load(args.checkpoint), preprocess.turn, OWN
    return RuntimePolicy(planned(runtime, args.budget, args.plan, seed), prepare, whose)
