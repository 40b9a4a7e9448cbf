"""`actdistill bench ik`: the driver's inverse kinematics against the vendor SDK's solver, in turns in one process."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.rotation import from_rotation_vector
from actdistill_ros.control import settings
from actdistill_ros.control.arm_models import MODELS, ArmModel
from actdistill_ros.control.kinematics import Chain
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.singularity import dexterity
from actdistill_ros.trials.report import machine

Solver = Callable[[ArmPose, np.ndarray], "np.ndarray | None"]
"""Target and seed (6,) [rad] -> joints (6,) [rad], or None where it says that it has none."""

STEPS = 60
"""Targets of one way."""
TICK, ACTION = (0.0005, 0.002), (0.012, 0.06)
"""Most that the TCP moves [m] and turns [rad] from one target of a way to the next: a jog at 200 Hz, a policy's
action."""
TURN_RAD = 0.001
"""From one target to the next where the TCP only turns."""
SINGULAR_M = 0.015
"""Ways near a singularity begin where the dexterity is below this."""
JUMP_RAD = 0.1
"""A joint that turns further than this on a tick of half a millimetre has changed its branch, or runs."""
POLISH = 4
TASKS = ("far", "ticks", "actions", "singular", "turns")
TRIALS = 5


class BenchError(ValueError):
    """The bench cannot run; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), default="X5", help="which arm (default: %(default)s)")
    parser.add_argument("--poses", type=int, default=300, help="far poses (default: %(default)s)")
    parser.add_argument("--ways", type=int, default=50, help=f"ways of {STEPS} targets, of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of poses, ways and seeds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    if min(args.poses, args.ways) < 1 or args.seed < 0:
        raise BenchError(
            f"--poses {args.poses} --ways {args.ways} --seed {args.seed}: expected at least 1 pose and way, a seed "
            "from 0 on"
        )
    limits = settings.load(model=args.model)
    report = {
        "model": args.model,
        "seed": args.seed,
        "poses": args.poses,
        "ways": args.ways,
        "clock": "processor time of the thread",
    }
    report |= measure(limits, args.poses, args.ways, args.seed)
    report |= {"load_average": round(os.getloadavg()[0], 2), **machine()}
    _print(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(limits: DriverSettings, poses: int, ways: int, seed: int) -> dict:
    """Kind of task -> solver -> what it did."""
    rng, vendor = np.random.default_rng(seed), Vendor(limits.arm)
    far, near = _far_solvers(limits, vendor, rng), _near_solvers(limits, vendor)
    tasks = {
        "far": (far, [(limits.arm.home_rad, [pose]) for pose in _far_poses(limits.arm, poses, rng)]),
        "ticks": (near, list(_ways(limits.arm, ways, TICK, rng, singular=False))),
        "actions": (near, list(_ways(limits.arm, ways, ACTION, rng, singular=False))),
        "singular": (near, list(_ways(limits.arm, ways, TICK, rng, singular=True))),
        "turns": (near, [_turn(limits.arm, rng) for _ in range(ways)]),
    }
    found = {}
    for task, (solvers, runs) in tasks.items():
        print(f"{task}: {sum(len(targets) for _, targets in runs)} targets", file=sys.stderr, flush=True)
        scores = {name: Score(limits) for name in solvers}
        for first, targets in runs:
            seeds = dict.fromkeys(solvers, first)
            for target in targets:
                for name, solve in solvers.items():
                    seeds[name] = scores[name].take(solve, target, seeds[name])
        found[task] = {name: score.report() for name, score in scores.items()}
    return found


# -- solvers
class Vendor:
    """The SDK's solver; only ever loaded beside a driver, never into one: it holds the interpreter's lock while it
    works, and ends the process where it does not find its file."""

    def __init__(self, arm: ArmModel) -> None:
        import arx5_interface as sdk

        with contextlib.redirect_stdout(io.StringIO()):
            config = sdk.RobotConfigFactory.get_instance().get_config(arm.name)
        self._solver = sdk.Arx5Solver(
            config.urdf_path, 6, config.joint_pos_min, config.joint_pos_max, config.base_link_name,
            config.eef_link_name, config.gravity_vector,
        )  # fmt: skip

    def once(self, target: ArmPose, seed: np.ndarray) -> np.ndarray | None:
        status, q = self._solver.inverse_kinematics(pose_6d(target), seed)
        return np.asarray(q) if status == 0 else None

    def trials(self, target: ArmPose, seed: np.ndarray) -> np.ndarray | None:
        status, q = self._solver.multi_trial_ik(pose_6d(target), seed, TRIALS)
        return np.asarray(q) if status == 0 else None


def pose_6d(pose: ArmPose) -> np.ndarray:
    """(6,) position [m] and roll, pitch, yaw about fixed axes [rad], as the SDK takes it."""
    r = pose.rotation
    level = np.hypot(r[0, 0], r[1, 0])
    pitch = np.arctan2(-r[2, 0], level)
    if level < 1e-9:  # straight down or up: only the sum of roll and yaw is fixed
        return np.array([*pose.position_m, np.arctan2(-r[1, 2], r[1, 1]), pitch, 0.0])
    return np.array([*pose.position_m, np.arctan2(r[2, 1], r[2, 2]), pitch, np.arctan2(r[1, 0], r[0, 0])])


def inside(q: np.ndarray) -> bool:
    return bool(np.all(q >= JOINT_MIN) and np.all(q <= JOINT_MAX))


def wrapped(q: np.ndarray) -> np.ndarray:
    """(6,) the same pose with each joint within π of the middle of its range."""
    middle = (JOINT_MIN + JOINT_MAX) / 2
    return middle + (q - middle + np.pi) % (2 * np.pi) - np.pi


def polished(chain: Chain, target: ArmPose, q: np.ndarray) -> np.ndarray:
    """(6,) after a few Newton steps, each taken only if it lowers the error and keeps the limits."""
    error = np.concatenate(difference(target, chain.forward(q)))
    for _ in range(POLISH):
        try:
            trial = q + np.linalg.solve(chain.jacobian(q), error)
        except np.linalg.LinAlgError:
            break
        left = np.concatenate(difference(target, chain.forward(trial)))
        if not (inside(trial) and left @ left < error @ error):
            break
        q, error = trial, left
    return q


def _guarded(chain: Chain, once: Solver) -> Solver:
    """One answer of the vendor's, inside the limits and polished."""

    def solve(target: ArmPose, seed: np.ndarray) -> np.ndarray | None:
        q = once(target, seed)
        return None if q is None or not inside(q := wrapped(q)) else polished(chain, target, q)

    return solve


def _nearest(solve: Solver, seeds: np.ndarray) -> Solver:
    """From the seed and more `seeds` (S, 6); of the answers the one nearest to the seed."""

    def best(target: ArmPose, seed: np.ndarray) -> np.ndarray | None:
        answers = [q for start in (seed, *seeds) if (q := solve(target, start)) is not None]
        return min(answers, key=lambda q: float(np.abs(q - seed).max())) if answers else None

    return best


def _ours(limits: DriverSettings) -> Solver:
    """The driver's: what misses its target by more than the tolerance is no answer."""

    def solve(target: ArmPose, seed: np.ndarray) -> np.ndarray | None:
        found = limits.arm.chain.solve(target, seed)
        good = found.position_error_m <= limits.ik_position_tolerance_m
        return found.q if good and found.rotation_error_rad <= limits.ik_rotation_tolerance_rad else None

    return solve


def _near_solvers(limits: DriverSettings, vendor: Vendor) -> dict[str, Solver]:
    return {
        "SDK": vendor.once,
        "SDK, limits and polish": _guarded(limits.arm.chain, vendor.once),
        "driver": _ours(limits),
    }


def _far_solvers(limits: DriverSettings, vendor: Vendor, rng: np.random.Generator) -> dict[str, Solver]:
    seeds = rng.uniform(JOINT_MIN, JOINT_MAX, (19, 6))
    guarded, ours = _guarded(limits.arm.chain, vendor.once), _ours(limits)
    return {
        "SDK": vendor.once,
        f"SDK, its own {TRIALS} trials": vendor.trials,
        "SDK, limits and polish": guarded,
        "SDK, limits and polish, 7 seeds": _nearest(guarded, seeds[:6]),
        "SDK, limits and polish, 20 seeds": _nearest(guarded, seeds),
        "driver": ours,
        "driver, 7 seeds": _nearest(ours, seeds[:6]),
        "driver, 20 seeds": _nearest(ours, seeds),
    }


# -- tasks
def _far_poses(arm: ArmModel, count: int, rng: np.random.Generator) -> list[ArmPose]:
    """Reachable by construction: those of random joints inside their limits."""
    return [arm.chain.forward(q) for q in rng.uniform(JOINT_MIN, JOINT_MAX, (count, 6))]


def _ways(
    arm: ArmModel, count: int, step: tuple[float, float], rng: np.random.Generator, singular: bool
) -> Iterator[tuple[np.ndarray, list[ArmPose]]]:
    """Where a way begins (6,) and its targets: straight in joint space, so that each can be reached without a jump."""
    while count:
        start = _singular(arm, rng) if singular else _over_the_table(arm, rng)
        direction = rng.normal(size=6)
        twist = arm.chain.jacobian(start) @ direction
        direction *= min(step[0] / np.linalg.norm(twist[:3]), step[1] / np.linalg.norm(twist[3:]))
        if inside(start + STEPS * direction):
            yield start, [arm.chain.forward(start + i * direction) for i in range(1, STEPS + 1)]
            count -= 1


def _turn(arm: ArmModel, rng: np.random.Generator) -> tuple[np.ndarray, list[ArmPose]]:
    """Where it begins (6,) and targets that turn about the TCP, which stays."""
    start = _over_the_table(arm, rng)
    axis, pose = rng.normal(size=3), arm.chain.forward(start)
    axis /= np.linalg.norm(axis)
    return start, [integrate(pose, np.zeros(3), i * TURN_RAD * axis) for i in range(1, STEPS + 1)]


def _over_the_table(arm: ArmModel, rng: np.random.Generator) -> np.ndarray:
    down = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    while True:
        at = rng.uniform([0.16, -0.2, -0.03], [0.4, 0.2, 0.15])
        tilt = from_rotation_vector(rng.uniform(-0.3, 0.3, 3))
        found = arm.chain.solve(ArmPose(at, tilt @ down), arm.home_rad)
        if found.position_error_m < 1e-6 and found.rotation_error_rad < 1e-6:
            return found.q


def _singular(arm: ArmModel, rng: np.random.Generator) -> np.ndarray:
    while True:
        q = rng.uniform(JOINT_MIN, JOINT_MAX)
        if dexterity(arm.chain, q) < SINGULAR_M:
            return q


# -- scores
@dataclass
class Score:
    """What one solver did; errors of what it called an answer, whether that is good or not."""

    limits: DriverSettings
    good: list[bool] = field(default_factory=list)
    errors: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    jumps: list[float] = field(default_factory=list)
    outside: int = 0
    still: int = 0

    def take(self, solve: Solver, target: ArmPose, seed: np.ndarray) -> np.ndarray:
        """The seed (6,) for the next target: the answer, or where the arm stays without one."""
        began = time.thread_time()
        q = solve(target, seed)
        self.seconds.append(time.thread_time() - began)
        if q is None:
            self.good.append(False)
            return seed
        move, turn = difference(target, self.limits.arm.chain.forward(q))
        error = float(np.linalg.norm(move)), float(np.linalg.norm(turn))
        self.errors.append(error)
        self.outside += not inside(q)
        self.still += bool(np.array_equal(q, seed))
        self.jumps.append(float(np.abs(q - seed).max()))
        near = error[0] <= self.limits.ik_position_tolerance_m and error[1] <= self.limits.ik_rotation_tolerance_rad
        self.good.append(near and inside(q))
        return q

    def report(self) -> dict:
        """Shares of all targets; errors and jumps of the answers."""
        count = len(self.good)
        errors = np.array(self.errors) if self.errors else np.full((1, 2), np.nan)
        jumps = np.array(self.jumps) if self.jumps else np.full(1, np.nan)
        return {
            "success": _rounded(np.mean(self.good)),
            "answered": _rounded(len(self.errors) / count),
            "outside_limits": _rounded(self.outside / count),
            "still": _rounded(self.still / count),
            "position_um": _percentiles(1e6 * errors[:, 0]),
            "rotation_urad": _percentiles(1e6 * errors[:, 1]),
            "us": _percentiles(1e6 * np.array(self.seconds)),
            "jump_rad": {"max": _rounded(jumps.max()), "over": int((jumps > JUMP_RAD).sum())},
        }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{q}": _rounded(np.percentile(values, q)) for q in (50, 99)}


def _rounded(value: float) -> float | None:
    """Four figures; JSON knows no number that is none."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _print(report: dict) -> None:
    print(f"{report['model']}, {report['device']}, {report['threads']} threads, seed {report['seed']}")
    for task in TASKS:
        print(f"\n{task:<34} success  outside  still  position p50/p99 [µm]  rotation p50/p99 [µrad]  "
              "time p50/p99 [µs]  jumps (max [rad])")  # fmt: skip
        for name, score in report[task].items():
            pairs = [f"{score[key]['p50']:g} / {score[key]['p99']:g}" for key in ("position_um", "rotation_urad", "us")]
            jump = score["jump_rad"]
            print(f"  {name:<32} {score['success']:7.1%} {score['outside_limits']:8.1%} {score['still']:6.1%}  "
                  f"{pairs[0]:>21}  {pairs[1]:>23}  {pairs[2]:>17}  {jump['over']} ({jump['max']:g})")  # fmt: skip
