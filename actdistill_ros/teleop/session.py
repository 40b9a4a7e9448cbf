"""One operator at one device: what is sent to the driver, tick by tick, also when the device goes and comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.teleop.leader import Clutch
from actdistill_ros.teleop.source import Intent, Source, SourceError, SourceLost

AGAIN_S = 1.0
"""How often a lost device is looked for."""
FRESH_S = 0.2
"""An arm whose pose is older than this may be anywhere."""
STOP_AGAIN_S = 0.1
"""How often an emergency stop is repeated until the driver has said yes."""


@dataclass(frozen=True)
class Output:
    """deadman: None if nothing must be sent: silence is a stop of its own. twist: (6,) [m/s, rad/s] or None from a
    source that has switches only; tool: its frame; gripper: opening or None; stop: ask for the emergency stop now;
    notes: news for the log."""

    deadman: bool | None = None
    twist: np.ndarray | None = None
    tool: bool = False
    gripper: float | None = None
    stop: bool = False
    notes: tuple[str, ...] = ()


class Session:
    """Not thread-safe. `open_source(now_s)` raises SourceError; the first one is the caller's to handle."""

    def __init__(self, open_source: Callable[[float], Source], jog_speed: np.ndarray, tool: bool, now_s: float) -> None:
        """jog_speed: (6,) fastest jog [m/s, rad/s]; tool: whether motion is in its frame unless a source says."""
        self._open, self._jog_speed, self._tool = open_source, jog_speed, tool
        self.scale = 1.0
        self._commanded: ArmPose | None = None
        self._commanded_s = float("-inf")
        self._clutch = Clutch()
        self._source: Source | None = open_source(now_s)
        self._armed = False
        self._tried_s = now_s
        self._stop_wanted, self._stop_sent_s = False, float("-inf")

    def step(self, now_s: float) -> Output:
        """Read the device once."""
        if self._source is None and (note := self._reopen(now_s)):
            return Output(deadman=False, stop=self._stop_due(now_s), notes=(note,))
        if self._source is None:
            return Output(stop=self._stop_due(now_s))
        try:
            intent = self._source.read(now_s)
        except SourceLost as lost:
            return self._lose(lost, now_s)
        return Output(stop=self._stop_due(now_s)) if intent is None else self._output(intent, now_s)

    def see(self, commanded: ArmPose | None, now_s: float) -> None:
        """The arm's commanded pose, heard now; without a fresh one no leader arm moves anything."""
        self._commanded, self._commanded_s = commanded, now_s

    def stopped(self) -> None:
        """The driver has said yes to the emergency stop."""
        self._stop_wanted = False

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _output(self, intent: Intent, now_s: float) -> Output:
        # A switch that was held when the device came up does not count before it was let go once.
        self._armed |= not intent.deadman
        deadman = intent.deadman and self._armed and not intent.stop
        self._stop_wanted |= intent.stop
        tool = self._tool if intent.tool is None else intent.tool
        twist = None
        if intent.motion is not None:
            twist = intent.motion * self._jog_speed * self.scale if deadman else np.zeros(6)
        elif intent.joints is not None:
            twist, tool = self._clutch.twist(intent.joints, deadman, self._where(now_s)), False
        gripper = intent.gripper if deadman else None
        return Output(deadman, twist, tool, gripper, self._stop_due(now_s))

    def _where(self, now_s: float) -> ArmPose | None:
        return self._commanded if 0.0 <= now_s - self._commanded_s <= FRESH_S else None

    def _lose(self, lost: SourceLost, now_s: float) -> Output:
        self._stop_wanted |= self._source.loss_is_stop
        self.close()
        self._armed, self._tried_s = False, now_s
        consequence = "emergency stop" if self._stop_wanted else "the arm stops"
        return Output(deadman=False, stop=self._stop_due(now_s), notes=(f"{lost}; {consequence}",))

    def _reopen(self, now_s: float) -> str:
        if now_s - self._tried_s < AGAIN_S:
            return ""
        self._tried_s = now_s
        try:
            self._source = self._open(now_s)
        except SourceError:
            return ""
        return "teleop listens again: let go of the dead-man once, then press it"

    def _stop_due(self, now_s: float) -> bool:
        if not self._stop_wanted or now_s - self._stop_sent_s < STOP_AGAIN_S:
            return False
        self._stop_sent_s = now_s
        return True
