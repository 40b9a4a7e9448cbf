"""One episode of LIBERO: settle, look, act until the task is done or the steps are used up."""

from __future__ import annotations

import base64
import hashlib
import time

import numpy as np

from actdistill_ros.suites.libero import preprocess, protocol
from actdistill_ros.suites.policy import Decision, Look, SuitePolicy
from actdistill_ros.suites.record import Ended
from actdistill_ros.suites.world import World


def run(world: World, policy: SuitePolicy, suite: str, episode: protocol.Episode, draws: str | None) -> Ended:
    """draws: the random state that the trial before left; None for a first trial. Raises WorldError if the benchmark
    dies, ValueError if the policy's actions are none."""
    before = None if draws is None else np.frombuffer(base64.b64decode(draws), dtype="<u4")
    look, after = world.reset(episode.trial, protocol.SETTLING_STEPS, protocol.still(), before)
    first = statistics(look)
    policy.begin(look.instruction)
    decisions: list[Decision] = []
    step_ms: list[float] = []
    steps, done, limit = 0, False, protocol.MAX_STEPS[suite]
    while not done and steps < limit:
        start = time.perf_counter()
        decision = policy.act(look)
        step_ms.append(round((time.perf_counter() - start) * 1e3, 3))
        decisions.append(decision)
        actions = checked(decision.actions)[: limit - steps]
        for i, action in enumerate(actions):
            # Nobody looks in the middle of a chunk.
            look, done = world.step(action, look=bool(policy.cameras) and i + 1 == len(actions))
            steps += 1
            if done:
                break
    routed = [d for d in decisions if len(d.executed)]
    return Ended(
        number=episode.number,
        task=episode.task,
        trial=episode.trial,
        success=done,
        steps=steps,
        step_ms=step_ms,
        decoder_ms=[round(d.decoder_ms, 3) for d in decisions if d.decoder_ms is not None],
        executed=np.mean([d.executed for d in routed], axis=0).tolist() if routed else [],
        budget=decisions[0].budget,
        first_view=first,
        draws=base64.b64encode(after.tobytes()).decode(),
    )


def checked(actions: np.ndarray) -> np.ndarray:
    """(K, 7) finite numbers, as they came; else ValueError."""
    if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions) or not np.isfinite(actions).all():
        raise ValueError(f"the policy answered actions of shape {actions.shape}; expected (K, 7) finite numbers, K ≥ 1")
    return actions


def statistics(look: Look) -> dict:
    """What tells one picture from another: of the frame as rendered, and of what the policy is given of it."""
    found = {"state": [round(float(x), 6) for x in look.state]}
    for name, frame in look.images.items():
        view = preprocess.view(frame).reshape(-1, 3)
        found[name] = {
            "sha256": hashlib.sha256(frame.tobytes()).hexdigest()[:16],
            "view_mean": view.mean(axis=0).round(4).tolist(),
            "view_std": view.std(axis=0).round(4).tolist(),
        }
    return found
