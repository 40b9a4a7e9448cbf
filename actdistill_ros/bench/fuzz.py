"""Throws random and adversarial commands at the driver core and measures every joint command that comes out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from actdistill_ros.arm.backend import JointCommand, JointFeedback
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control import trajectory
from actdistill_ros.control.driver import Driver
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.operator import Twist
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.control.trajectory import Trajectory

ODD = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e12, 1e-300, 5e-324, -0.0)
SLACK_M = 0.001
"""Of workspace and clearance: what the driver grants on the way, and as much between the moments it looks at."""
ROUNDING = 1.0 + 1e-6
"""What sums of floating-point numbers may add to a limit that is kept by construction."""
BATCH = 200
"""Commands whose TCP and clearance are looked at together."""


@dataclass
class Findings:
    """Worst commanded values of the joints as share of their limit, of the TCP in metres, what was sent, and what must
    not have happened (in words)."""

    commands: int = 0
    ticks: int = 0
    speed: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    tcp_speed_m_s: float = 0.0
    stop_tcp_speed_m_s: float = 0.0
    tcp_turn_rad_s: float = 0.0
    outside_workspace_m: float = 0.0
    clearance_m: float = np.inf
    sent: Counter = field(default_factory=Counter)
    accepted: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


class Fuzz:
    """One driver, an arm that goes where it is told, a clock of its own; the same seed gives the same run."""

    def __init__(self, settings: DriverSettings, seed: int = 0) -> None:
        self._settings, self._rng = settings, np.random.default_rng(seed)
        self._now_s, self._q, self._gripper = 1000.0, settings.arm.home_rad.copy(), 1.0
        self._faults: dict[str, str] = {}
        self._answered_s, self._answers = self._now_s, True
        self._driver = Driver(settings, lambda: self._now_s, self._feedback())
        self._recent: list[np.ndarray] = []
        self._unseen: list[tuple[np.ndarray, bool, bool]] = []
        self._direction = np.zeros(6)
        self.found = Findings()
        self._commands = (
            (self._chunk, 25), (self._push, 20), (self._twist, 20), (self._deadman, 15), (self._mode, 6),
            (self._gripper_command, 4),
            (self._trajectory, 3), (self._unreadable, 3), (self._speed_scale, 2), (self._trouble, 2),
        )  # fmt: skip

    def run(self, commands: int) -> Findings:
        kinds = [kind for kind, _ in self._commands]
        weights = np.array([weight for _, weight in self._commands], float)
        for _ in range(commands):
            kind = kinds[self._rng.choice(len(kinds), p=weights / weights.sum())]
            name = kind.__name__.strip("_")
            self.found.commands += 1
            self.found.sent[name] += 1
            try:
                if self._rng.random() < 0.3:
                    self._give_to_the_policy()
                self.found.accepted[name] += kind()
                for _ in range(int(self._rng.choice([0, 1, 1, 2, 10], p=[0.2, 0.3, 0.2, 0.2, 0.1]))):
                    self._tick()
            except Exception as error:
                self._violated(f"{name} raised {error!r}")
        self._look_where()
        return self.found

    def _give_to_the_policy(self) -> None:
        """As a patient human would; without it the driver would stand still most of the time."""
        if self._driver.state().mode is not Mode.POLICY:
            self._faults, self._answers = {}, True
            self._tick()
            self._driver.deadman(False)
            self._driver.set_mode(Mode.POLICY, reset=True)

    # -- commands; each says whether it was accepted
    def _chunk(self) -> bool:
        rng, rows = self._rng, int(self._rng.integers(1, 5))
        size = rng.choice([1e-12, 0.3, 1.0, 1.0, 3.0, 100.0])
        actions = rng.uniform(-1.0, 1.0, (rows, 7)) * size * np.array([0.02, 0.02, 0.02, 0.08, 0.08, 0.08, 0.0])
        if rng.random() < 0.3:  # flips: there and back as far as allowed
            actions[:] = actions[0] * np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None]
        actions[:, 6] = rng.uniform(-0.05, 1.05, rows)
        stamp_s, period_s, execute = self._stamp(), float(rng.choice([0.02, 0.05, 0.1, 0.1, 0.3])), rows
        if rng.random() < 0.15:
            actions[rng.integers(rows), rng.integers(7)] = rng.choice(ODD)
        if rng.random() < 0.05:
            period_s, execute = float(rng.choice(ODD)), int(rng.integers(-2, 9))
        if rng.random() < 0.03:
            actions = actions[:, : int(rng.integers(0, 7))]
        return not self._driver.offer(Chunk(actions, period_s, execute, stamp_s, "fuzz", "fuzz"))

    def _push(self) -> bool:
        """As far and as fast as is accepted in one direction, chunk after chunk, or along a border and back."""
        rng, rows = self._rng, int(self._rng.integers(1, 9))
        if rng.random() < 0.05:
            move, turn = rng.normal(size=(2, 3))
            if rng.random() < 0.5:  # as the joints would: also those that hold each other's motion up
                chain = self._settings.arm.chain
                move, turn = np.split(chain.jacobian(self._driver.joints) @ rng.uniform(-1.0, 1.0, 6), 2)
                share = min(0.0499 / np.linalg.norm(move), 0.299 / np.linalg.norm(turn))
                move, turn = move * share, turn * share
            else:
                move *= rng.choice([0.01, 0.03, 0.0499]) / np.linalg.norm(move)
                turn *= rng.choice([0.0, 0.1, 0.299]) / np.linalg.norm(turn)
            self._direction = np.concatenate([move, turn])
        actions = np.zeros((rows, 7))
        actions[:, :6] = self._direction
        if rng.random() < 0.5:
            actions[:, rng.choice([slice(0, 6), slice(0, 3), slice(3, 6)])] *= -1.0
        if rng.random() < 0.4:
            actions[1::2, rng.choice([slice(0, 6), slice(0, 3), slice(3, 6)])] *= -1.0
        period_s = float(rng.choice([0.02, 0.05, 0.1, 0.1, 0.3]))
        return not self._driver.offer(Chunk(actions, period_s, rows, self._now_s, "fuzz", "fuzz"))

    def _twist(self) -> bool:
        rng = self._rng
        parts = rng.uniform(-1.0, 1.0, 6) * rng.choice([1e-9, 0.1, 0.3, 1.0, 1e6])
        if rng.random() < 0.05:
            parts[rng.integers(6)] = rng.choice(ODD)
        stamp_s = self._stamp() if rng.random() < 0.1 else self._now_s
        return not self._driver.jog(Twist(parts[:3], parts[3:], bool(rng.random() < 0.5), stamp_s))

    def _deadman(self) -> bool:
        self._driver.deadman(bool(self._rng.random() < 0.75))
        return True

    def _mode(self) -> bool:
        mode = Mode(int(self._rng.choice(6, p=[0.05, 0.35, 0.2, 0.25, 0.1, 0.05])))
        return not self._driver.set_mode(mode, reset=bool(self._rng.random() < 0.7))

    def _gripper_command(self) -> bool:
        return not self._driver.grip(float(self._rng.choice([0.0, 0.5, 1.0, -0.04, 255.0, np.nan, np.inf])))

    def _trajectory(self) -> bool:
        rng, count = self._rng, int(self._rng.integers(1, 6))
        positions = self._driver.joints + np.cumsum(rng.normal(0.0, rng.choice([0.01, 0.1, 1.0]), (count, 6)), axis=0)
        times = np.cumsum(rng.uniform(0.0, rng.choice([0.01, 0.5]), count))
        if rng.random() < 0.2:
            (positions.reshape(-1) if rng.random() < 0.5 else times)[-1] = rng.choice(ODD)
        wanted = Trajectory(positions, times, self._stamp() if rng.random() < 0.3 else 0.0)
        way, why = trajectory.judge(wanted, self._driver.joints, self._now_s, self._settings)
        return not why and not self._driver.follow(way)

    def _unreadable(self) -> bool:
        """What the edge says of a message in another frame."""
        refuse = self._driver.refuse if self._rng.random() < 0.5 else self._driver.refuse_teleop
        refuse("frame_id is 'camera', expected 'base_link'")
        return False

    def _speed_scale(self) -> bool:
        try:
            self._driver.set_speed_scale(float(self._rng.choice([0.1, 0.5, 1.0, 1.0, 0.0, -1.0, 2.0, np.nan])))
        except ValueError:
            return False
        return True

    def _trouble(self) -> bool:
        """A motor fault, or answers that stop; or all is well again."""
        self._faults = {"joint3": "overload"} if self._rng.random() < 0.3 else {}
        self._answers = bool(self._rng.random() < 0.7)
        return True

    def _stamp(self) -> float:
        """Mostly now; sometimes long past, to come, zero, or no time at all."""
        ages = [0.0, 0.01, 0.3, 5.0, 1e6, -0.04, -1.0, 1000.0, np.nan, np.inf]
        return self._now_s - float(self._rng.choice(ages, p=[0.6, 0.15, 0.1, 0.03, 0.02, 0.03, 0.02, 0.02, 0.02, 0.01]))

    # -- the arm and what it is told
    def _feedback(self) -> JointFeedback:
        if self._answers:
            self._answered_s = self._now_s
        return JointFeedback(
            self._q.copy(), np.zeros(6), np.zeros(6), self._gripper, self._answered_s, dict(self._faults)
        )

    def _tick(self) -> None:
        odd = self._rng.random() < 0.01
        passed_s = float(self._rng.uniform(-0.02, 0.1)) if odd else self._settings.tick_s
        self._now_s += passed_s
        stopping = self._driver.stopping
        command = self._driver.tick(self._feedback()).command
        self.found.ticks += 1
        if odd or command is None:
            self._recent.clear()
        if command is not None:
            self._look(command, stopping or self._driver.stopping)
            self._q, self._gripper = command.position_rad, command.gripper

    def _look(self, command: JointCommand, stopping: bool) -> None:
        q = command.position_rad
        if not (np.isfinite(q).all() and np.isfinite(command.gripper)):
            return self._violated(f"command is not finite: {q}, {command.gripper}")
        if (q < JOINT_MIN - 1e-9).any() or (q > JOINT_MAX + 1e-9).any() or not 0.0 <= command.gripper <= 1.0:
            self._violated(f"command is outside its range: {q}, {command.gripper}")
        self._unseen.append((q, bool(self._recent), stopping))
        if len(self._unseen) >= BATCH:
            self._look_where()
        self._recent = [*self._recent[-3:], q]
        self._derivatives()

    def _look_where(self) -> None:
        """Where the commands since the last time put the TCP, and how close to each other and the table the parts."""
        if not self._unseen:
            return
        settings, found = self._settings, self.found
        q, follows, stopping = (np.array(values) for values in zip(*self._unseen))
        self._unseen = []
        arm = settings.arm
        frames = arm.chain.many_link_frames(q)
        at = arm.chain.tcp_positions(*frames)
        outside_m = np.maximum(settings.workspace_min_m - at, at - settings.workspace_max_m).max(axis=1)
        found.outside_workspace_m = max(found.outside_workspace_m, float(outside_m.max()))
        for i in np.flatnonzero(outside_m > SLACK_M):
            self._violated(f"TCP is {1000 * outside_m[i]:.1f} mm outside the workspace at {at[i]}")
        speed_m_s = np.linalg.norm(np.diff(at, axis=0), axis=1) / settings.tick_s  # (T − 1,)
        moved, stopped = follows[1:] & ~stopping[1:], follows[1:] & stopping[1:]
        found.tcp_speed_m_s = max(found.tcp_speed_m_s, float(speed_m_s[moved].max(initial=0.0)))
        found.stop_tcp_speed_m_s = max(found.stop_tcp_speed_m_s, float(speed_m_s[stopped].max(initial=0.0)))
        for i in np.flatnonzero(follows[1:] & (speed_m_s > settings.tcp_speed_limit_m_s * ROUNDING)):
            self._violated(f"the TCP moves at {speed_m_s[i]:.4f} m/s{' in a stop' if stopped[i] else ''}")
        turn_rad_s = _angles(frames[0][:, 5]) / settings.tick_s  # (T − 1,)
        found.tcp_turn_rad_s = max(found.tcp_turn_rad_s, float(turn_rad_s[follows[1:]].max(initial=0.0)))
        for i in np.flatnonzero(follows[1:] & (turn_rad_s > settings.tcp_turn_limit_rad_s * ROUNDING)):
            self._violated(f"the TCP turns at {turn_rad_s[i]:.4f} rad/s{' in a stop' if stopped[i] else ''}")
        near_m = arm.body.clearances(*frames, settings.table_z_m)
        found.clearance_m = min(found.clearance_m, float(near_m.min()))
        for i in np.flatnonzero(near_m < settings.self_clearance_m - SLACK_M):
            self._violated(f"parts of the arm, or the table, are within {1000 * near_m[i]:.1f} mm at joints {q[i]}")

    def _derivatives(self) -> None:
        settings, found, tick_s = self._settings, self.found, self._settings.tick_s
        if len(self._recent) < 2:
            return
        v = np.diff(np.array(self._recent), axis=0) / tick_s
        a, j = np.diff(v, axis=0) / tick_s, np.diff(v, n=2, axis=0) / tick_s**2
        for name, values, limit in (
            ("speed", v, settings.joint_speed_limit),
            ("acceleration", a, settings.joint_acceleration_limit_rad_s2),
            ("jerk", j, settings.joint_jerk_limit_rad_s3),
        ):
            share = float(np.max(np.abs(values) / limit)) if len(values) else 0.0
            setattr(found, name, max(getattr(found, name), share))
            if share > ROUNDING:
                self._violated(f"{name} is {share:.3f} of its limit")

    def _violated(self, words: str) -> None:
        self.found.violations.append(words)
        self._recent.clear()


def _angles(rotations: np.ndarray) -> np.ndarray:
    """(T − 1,) [rad] between each of (T, 3, 3) and the next."""
    turns = np.einsum("tij,tik->tjk", rotations[1:], rotations[:-1])
    sine = np.stack([turns[:, 2, 1] - turns[:, 1, 2], turns[:, 0, 2] - turns[:, 2, 0], turns[:, 1, 0] - turns[:, 0, 1]])
    return np.arctan2(np.linalg.norm(sine, axis=0), np.trace(turns, axis1=1, axis2=2) - 1.0)
