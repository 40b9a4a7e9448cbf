"""The process that the vendor SDK runs in: its joint controller and nothing else, no ROS, one connection per process.

It is expected to hang or abort at any moment, so everything that must outlive it is in `guard.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import socket
import sys
import time

import numpy as np

from actdistill_ros import priority
from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.sdk_settings import SdkSettings

PR_SET_PDEATHSIG = 1
STUCK_S = 2.0
"""The kernel ends this process when its loop stands still for so long; needs no Python, which a stuck SDK blocks."""
BEAT_S = 0.01
REST_S = 0.2  # an arm whose driver died comes to rest before it damps
NEAR_RAD = 0.06  # the first target may be this far from the arm: an arm outside its limits starts at the limit
PATIENCE = 30  # commands until the SDK must have seen what the bus has seen
TRIES = 5
ASTRAY_RAD_S = 1.0
"""A planned velocity may be this far from the way between the last two targets: more is not this motion's."""
FRESH_S = 0.03
"""A velocity of a driver silent for longer would only push the arm on."""
GRIPPER_WIDTH_M = 0.088
PAUSE_S = 0.02
"""So much of the time since the last command counts while power comes on: a process that was put aside does not jump to
full power."""
READY = 1e-6
"""This share of the gains is power to the SDK and none to the motors: in their frames it rounds to zero. With it the
SDK commands the target; without power it repeats where the arm lies, which may be outside the limits."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--guard", type=int, required=True)
    args = parser.parse_args(argv)
    ending: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != args.guard:
        return 1
    # An SDK that aborts is dead at once, without a core dump before, so that the guard damps at once. Of this limit the
    # kernel takes 1, not 0, for "none at all" where core dumps go to a program.
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if most else 0, most))
    settings = SdkSettings.from_json(args.settings)
    signal.setitimer(signal.ITIMER_REAL, settings.connect_timeout_s + STUCK_S)
    connection = socket.socket(fileno=args.fd)
    try:
        hand = Hand(settings, args.interface)
    except Exception as error:
        mend = ": make setup, or pip install arx5-interface==0.1.5" if isinstance(error, ModuleNotFoundError) else ""
        wire.give(connection, wire.words(error=f"{error}{mend}"))
        sys.stdout.flush()
        os._exit(1)  # a damaged SDK aborts in its own clean-up
    priority.claim_all(priority.BUS)  # the SDK's own thread, which commands the motors, above all
    wire.give(connection, wire.words(ready=True))
    code = 0
    try:
        run(hand, connection, settings, ending)
    except Exception as error:
        code = 1
        wire.give(connection, wire.words(error=f"{type(error).__name__}: {error}"))
    sys.stdout.flush()
    os._exit(code)  # the SDK's own end would take four seconds; the guard damps


class Hand:
    """The vendor's joint controller. Damps until it is told where to go, and again whenever nobody tells it."""

    def __init__(self, settings: SdkSettings, interface: str) -> None:
        """Comes up damping; raises RuntimeError as the SDK does."""
        import arx5_interface as sdk

        self._sdk, self._settings = sdk, settings
        robot = sdk.RobotConfigFactory.get_instance().get_config(settings.model)
        controller = sdk.ControllerConfigFactory.get_instance().get_config("joint_controller", 6)
        controller.controller_dt = settings.cycle_s
        controller.default_kd = np.array(settings.damping_kd)
        self._low, self._high, self._fast = robot.joint_pos_min, robot.joint_pos_max, robot.joint_vel_max
        self._controller = sdk.Arx5JointController(robot, controller, interface)
        self._ready_s = self._stiff_s = 0.0
        self._share = 0.0
        self._last: tuple[np.ndarray, float, float] | None = None
        self._waited = 0

    @property
    def share(self) -> float:
        """Of the gains in force; 0 while damping."""
        return self._share if self._share > READY else 0.0

    def damp(self) -> None:
        if self._share:
            self._gains(0.0)
        self._last, self._waited = None, 0

    def follow(self, position_rad: np.ndarray, velocity_rad_s: np.ndarray, opening: float, sent_s: float) -> None:
        """Be at (6,) `position_rad` one lead from now, at (6,) `velocity_rad_s`. Raises ValueError for what must not
        reach the motors."""
        if not (np.isfinite(position_rad).all() and np.isfinite(velocity_rad_s).all() and np.isfinite(opening)):
            raise ValueError("command is not finite")  # the SDK would take NaN for −12.5 rad
        position_rad = np.clip(position_rad, self._low, self._high)
        width_m = min(max(opening, 0.0), 1.0) * GRIPPER_WIDTH_M
        if self._last is None:
            if not self._begin(position_rad, width_m):
                return
            velocity = np.zeros(6)
        else:
            velocity = self._believed(velocity_rad_s, position_rad, sent_s)
        self._last = (position_rad, width_m, sent_s)
        self._go(position_rad, velocity, width_m, self._settings.lead_s)
        self._stiffen()

    def _believed(self, velocity_rad_s: np.ndarray, position_rad: np.ndarray, sent_s: float) -> np.ndarray:
        """(6,) the planned velocity as far as the targets bear it out: none where they stand still, none too fast."""
        before, _, before_s = self._last
        went = (position_rad - before) / max(sent_s - before_s, BEAT_S / 2)
        velocity = np.clip(velocity_rad_s, went - ASTRAY_RAD_S, went + ASTRAY_RAD_S)
        return np.where(position_rad == before, 0.0, np.clip(velocity, -self._fast, self._fast))

    def hold(self) -> None:
        """Stay at the position commanded last, if there is one since the last damping."""
        if self._last is not None:
            position_rad, width_m, sent_s = self._last
            self._go(position_rad, np.zeros(6), width_m, self._settings.lead_s)
            self._stiffen()

    def _begin(self, position_rad: np.ndarray, width_m: float) -> bool:
        """Whether there may be power: the SDK knows where the arm is, and the first target is there."""
        state = self._controller.get_joint_state()
        far = np.abs(state.pos() - position_rad).max()
        if far > NEAR_RAD:
            # The SDK is a cycle behind the bus; from where it believes the arm to be it would slew at full speed.
            self._waited += 1
            if self._waited < PATIENCE:
                return False
            raise ValueError(
                f"the first target is {far:.2f} rad from where the arm is, expected at most {NEAR_RAD} rad"
            )
        # An old target would be run to at full speed: replace all of them before there is any power.
        self._go(position_rad, np.zeros(6), width_m, 0.0)
        return True

    def _stiffen(self) -> None:
        """Power comes on over a while, and not before the SDK commands the target: it reads the gains in the middle of
        a cycle, with positions from its begin."""
        if self._share == 0.0:
            self._gains(READY)
            self._ready_s = self._controller.get_timestamp()
        elif self._share > READY or self._commands_target():
            now_s = time.monotonic()
            passed_s = 0.0 if self._share == READY else min(now_s - self._stiff_s, PAUSE_S)
            self._stiff_s = now_s
            if self._share < 1.0:
                self._gains(min(1.0, max(0.05, self._share + passed_s / self._settings.stiffen_s)))

    def _commands_target(self) -> bool:
        """Whether a cycle of the SDK began and ended since it takes the arm to be under power."""
        state = self._controller.get_joint_state()
        return state.timestamp > self._ready_s + 2.0 * self._settings.cycle_s

    def _gains(self, share: float) -> None:
        settings = self._settings
        kd = np.array(settings.kd if share > READY else settings.damping_kd)
        grip = (settings.gripper_kp * share, settings.gripper_kd)
        self._controller.set_gain(self._sdk.Gain(np.array(settings.kp) * share, kd, *grip))
        self._share = share

    def _go(self, position_rad: np.ndarray, velocity: np.ndarray, width_m: float, lead_s: float) -> None:
        target = self._sdk.JointState(position_rad, velocity, np.zeros(6), width_m)
        for _ in range(TRIES):
            target.timestamp = self._controller.get_timestamp() + lead_s
            try:
                return self._controller.set_joint_cmd(target)
            except ValueError:
                continue  # this process was put aside between the two lines, and the time has passed
        raise RuntimeError(f"the SDK refused a target {TRIES} times as one of the past: this machine is starved")


def run(hand: Hand, connection: socket.socket, settings: SdkSettings, ending: list[int]) -> None:
    """Until the guard is gone or wants the end; returns with the motors damping."""
    connection.settimeout(BEAT_S)
    heard_s, done = time.monotonic(), 0
    until_s = None
    while until_s is None or time.monotonic() < until_s:
        signal.setitimer(signal.ITIMER_REAL, STUCK_S)
        message, limp = _newest(connection)
        now = time.monotonic()
        if until_s is None and (message == b"" or ending):
            until_s = now + 2 * REST_S
        if until_s is not None:
            hand.hold() if hand.share and now < until_s - REST_S else hand.damp()
        elif message:
            _, what, done, sent_s, *target = wire.COMMAND.unpack(message)
            heard_s = now
            if limp:
                hand.damp()
            try:
                _obey(hand, what, target, sent_s)
            except ValueError as error:
                hand.damp()
                wire.give(connection, wire.words(refused=str(error)))
        elif now - heard_s > settings.command_timeout_s + settings.hold_to_damping_s:
            hand.damp()
        elif now - heard_s > min(settings.command_timeout_s, FRESH_S):
            hand.hold()
        wire.give(connection, wire.HEARTBEAT.pack(b"H", done, now, hand.share))
        if until_s is not None:
            time.sleep(BEAT_S)  # a socket whose other side is gone no longer waits
    hand.damp()


def _obey(hand: Hand, what: int, target: list[float], sent_s: float) -> None:
    if what == wire.FOLLOW:
        hand.follow(np.array(target[:6]), np.array(target[6:12]), target[12], sent_s)
    elif what == wire.HOLD:
        hand.hold()
    else:
        hand.damp()


def _newest(connection: socket.socket) -> tuple[bytes | None, bool]:
    """The newest command within a beat, none if there was none, empty if the guard is gone; and whether one of those
    passed over asked for damping: what came after it is a new start."""
    newest, limp = None, False
    try:
        newest = connection.recv(4096)
        connection.setblocking(False)
        while newest and (more := connection.recv(4096)):
            limp = limp or wire.COMMAND.unpack(newest)[1] == wire.DAMP
            newest = more
    except (BlockingIOError, TimeoutError):
        pass
    except OSError:
        newest = b""
    connection.settimeout(BEAT_S)
    return newest, limp


if __name__ == "__main__":
    sys.exit(main())
