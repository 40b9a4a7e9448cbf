"""How often each motor answers, counted over a sliding window."""

from __future__ import annotations

from collections import deque

from actdistill_ros.arm.backend import JointFeedback

MOTORS = 7
WINDOW_S = 1.0


class AnswerLog:
    """Takes every feedback; the same answer read twice counts once."""

    def __init__(self, rate_hz: float) -> None:
        self._stamps_s = [deque(maxlen=round(WINDOW_S * rate_hz) + 1) for _ in range(MOTORS)]

    def note(self, feedback: JointFeedback) -> None:
        for stamps_s, stamp_s in zip(self._stamps_s, feedback.motor_stamps_s, strict=True):
            if not stamps_s or stamp_s != stamps_s[-1]:
                stamps_s.append(stamp_s)

    def rates_hz(self, now_s: float) -> tuple[float, ...]:
        """Answers per second of each motor, the gripper's last."""
        return tuple(sum(stamp_s > now_s - WINDOW_S for stamp_s in stamps_s) / WINDOW_S for stamps_s in self._stamps_s)
