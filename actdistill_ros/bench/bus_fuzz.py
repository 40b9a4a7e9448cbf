"""Random and adversarial commands through driver and vendor SDK; every frame on the bus is held to the arm's limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.emulated.process import BusProcess
from actdistill_ros.arm.frames import POSITION_RAD
from actdistill_ros.arm.sdk_arm import OPEN_READOUT_RAD
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control import settings
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_VELOCITY_MAX
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.operator import Twist
from actdistill_ros.control.trajectory import Trajectory

BURST = 20  # commands between two ticks of the driver
STEP_RAD = 2 * POSITION_RAD / 65535  # on the wire
STEP_RAD_S = 2 * 45.0 / 4095  # the same of a velocity, where it is coarsest
LOOK_S = 30.0  # frames are fetched this often; the bus keeps more than a minute
GAP_S = 0.1  # frames further apart belong to different motions
UGLY = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e9, -1e9, 5e-324, -0.0, 3.15, -3.15, 12.6, -12.6, 100.0, 1.5, 0.3)


def good_chunk(random: np.random.Generator, now_s: float, actions: int = 4) -> Chunk:
    """Small motions that a policy could have asked for."""
    rows = np.zeros((actions, 7))
    rows[:, :3] = random.uniform(-0.012, 0.012, (actions, 3))
    rows[:, 3:6] = random.uniform(-0.06, 0.06, (actions, 3))
    rows[:, 6] = random.uniform(0.0, 1.0, actions)
    return Chunk(rows, 0.1, actions, now_s, "put the red block in the bowl", "fuzz")


def _ugly(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers at and beyond every edge, mixed with ordinary ones."""
    values = random.normal(0.0, 10.0 ** random.uniform(-6, 6), shape)
    return np.where(random.random(shape) < 0.3, random.choice(UGLY, shape), values)


def _bad_actions(random: np.random.Generator, now_s: float) -> Chunk:
    return Chunk(_ugly(random, (int(random.integers(1, 9)), 7)), 0.1, 1, now_s, "x", "fuzz")


def _flip(random: np.random.Generator, now_s: float) -> Chunk:
    """As fast as is accepted, one way and back."""
    rows = np.zeros((8, 7))
    rows[:, int(random.integers(0, 3))] = 0.05 * (-1.0) ** np.arange(8)
    rows[:, 3 + int(random.integers(0, 3))] = 0.3 * (-1.0) ** np.arange(8)
    return Chunk(rows, float(random.choice([0.02, 0.1, 1.0])), 8, now_s, "x", "fuzz")


def _bad_time(random: np.random.Generator, now_s: float) -> Chunk:
    chunk = good_chunk(random, now_s)
    stamp_s = float(random.choice([0.0, -1.0, np.nan, np.inf, now_s - 5.0, now_s + 5.0, 1e300]))
    period_s = float(random.choice([0.1, 0.0, -0.1, np.nan, np.inf, 1e-9, 1e9]))
    return Chunk(chunk.actions, period_s, int(random.integers(-2, 12)), stamp_s, "x", "fuzz")


def _bad_shape(random: np.random.Generator, now_s: float) -> Chunk:
    shape = random.integers(0, 12, int(random.integers(1, 4)))
    return Chunk(np.zeros(shape), 0.1, 1, now_s, "x", "fuzz")


def _commands(loop: DriverLoop, random: np.random.Generator) -> Iterator[Callable[[], object]]:
    """One command after the other, each a call."""
    offers = (good_chunk, _bad_actions, _flip, _bad_time, _bad_shape)
    while True:
        now_s, dice = time.time(), random.random()
        if dice < 0.70:
            make = offers[int(random.choice(5, p=[0.3, 0.25, 0.25, 0.1, 0.1]))]
            yield lambda: loop.offer(make(random, now_s))
        elif dice < 0.85:
            frame = bool(random.random() < 0.5)
            twist = _ugly(random, (2, 3)) if random.random() < 0.5 else random.uniform(-0.3, 0.3, (2, 3))
            yield lambda: (loop.deadman(bool(random.random() < 0.9)), loop.jog(Twist(*twist, frame, now_s)))
        elif dice < 0.90:
            yield lambda: loop.grip(float(_ugly(random, (1,))[0]))
        elif dice < 0.92:
            points = int(random.integers(1, 5))
            yield lambda: loop.follow(Trajectory(_ugly(random, (points, 6)), np.cumsum(random.uniform(-1, 2, points))))
        elif dice < 0.98:
            yield lambda: loop.refuse("frame_id is 'link6', expected 'base_link'")
        else:
            mode = Mode(int(random.choice([Mode.POLICY, Mode.TELEOP, Mode.HOLD, Mode.ESTOP, Mode.IDLE])))
            yield lambda: loop.set_mode(mode, reset=bool(random.random() < 0.5))


def run(folder: Path, start_rad: np.ndarray, commands: int, seed: int, model: str = "X5") -> dict:
    """Keys commands, frames, violations (words), worst_step_rad and worst_velocity_rad_s (6,) of the report.

    folder: for the sockets. start_rad: (6,) where the arm rests before. Raises ArmError if it cannot be reached.
    """
    limits = settings.load(model=model)
    bus = BusProcess(folder, model, start_rad.tolist())
    loop = DriverLoop(limits, bus.arm(sdk_settings.load(model=model)))
    checker = FrameChecker()
    try:
        loop.start()
        crashes = _fuzz(bus, loop, checker, limits.tick_s, commands, np.random.default_rng(seed))
    finally:
        loop.stop()
        bus.close()
    violations = checker.violations + crashes
    return {
        "commands": commands,
        "frames": checker.frames,
        "violations": violations,
        "worst_step_rad": checker.steps,
        "worst_velocity_rad_s": checker.velocities,
    }


def _fuzz(bus, loop, checker, tick_s: float, commands: int, random: np.random.Generator) -> list[str]:
    """What failed inside, in words."""
    source, crashes = _commands(loop, random), []
    looked_s = time.monotonic()
    for number in range(commands):
        if number % BURST == 0:
            time.sleep(tick_s)
        if number % (BURST * 10) == 0 and loop.state().driver.mode not in (Mode.POLICY, Mode.TELEOP):
            loop.deadman(False)
            loop.set_mode(Mode.POLICY, reset=True)
        try:
            next(source)()
        except Exception as error:
            crashes.append(repr(error))
        if time.monotonic() - looked_s > LOOK_S:
            looked_s = time.monotonic()
            checker.check(bus)
    checker.check(bus)
    state = loop.state().driver
    return crashes + [fault for fault in state.faults if fault.startswith("ERROR")]


class FrameChecker:
    """Holds every position and velocity under power to the limits, every step between two frames to the top speed."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.frames, self.steps, self.velocities = 0, [0.0] * 6, [0.0] * 6
        self._until_s = 0.0

    def check(self, bus: BusProcess) -> None:
        """The frames since the last time."""
        commands = [(r, c) for r, c in bus.commands() if r.time_s > self._until_s]
        if not commands:
            return
        self._until_s = commands[-1][0].time_s
        for index, number in enumerate(bus.motors):
            frames = [
                (r.time_s, c.position_rad, c.velocity_rad_s) for r, c in commands if r.id == number and c.kp > 0.0
            ]
            if frames:
                self._check_frames(index, np.array(frames))

    def _check_frames(self, index: int, frames: np.ndarray) -> None:
        """frames: (T, 3), time, position and velocity that one motor was sent under power."""
        self.frames += len(frames)
        self._check_motor(index, frames[:, :2])
        self._check_velocity(index, frames[:, 2])

    def _check_motor(self, index: int, track: np.ndarray) -> None:
        """track: (T, 2), times and positions."""
        name = f"joint{index + 1}" if index < 6 else "gripper"
        low, high = (JOINT_MIN[index], JOINT_MAX[index]) if index < 6 else (0.0, OPEN_READOUT_RAD)
        out = (track[:, 1] < low - STEP_RAD) | (track[:, 1] > high + STEP_RAD)
        self.violations += [f"{name} was sent to {at:.4f} rad, outside {low} … {high}" for at in track[out, 1]]
        if index == 6 or len(track) < 2:
            return
        gaps, steps = np.diff(track[:, 0]), np.abs(np.diff(track[:, 1]))
        together = gaps < GAP_S
        self.steps[index] = max(self.steps[index], float(steps[together].max(initial=0.0)))
        # The SDK limits steps per cycle of 2 ms; on a busy machine frames of one cycle arrive later, never earlier.
        fast = together & (steps > JOINT_VELOCITY_MAX[index] * np.maximum(gaps, 0.002) * 1.5 + 2 * STEP_RAD)
        self.violations += [f"{name} stepped {step:.4f} rad between two frames" for step in steps[fast]]

    def _check_velocity(self, index: int, velocities: np.ndarray) -> None:
        if index == 6:
            return
        fastest = float(np.abs(velocities).max())
        self.velocities[index] = max(self.velocities[index], fastest)
        if fastest > JOINT_VELOCITY_MAX[index] + STEP_RAD_S:
            self.violations.append(f"joint{index + 1} was sent a velocity of {fastest:.2f} rad/s")
