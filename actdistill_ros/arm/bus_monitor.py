"""What frames tell of the motors: who answered when, what they report, and what is wrong in words. Pure; no sockets.

The vendor SDK's own state is not used for this: its time stamp advances over frozen data, it drops fault codes and
temperatures, and it reads a motor that never answered as exactly 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from actdistill_ros.arm.frames import (
    DM_ANSWER_ID,
    ERROR_BUS_OFF,
    ERROR_FLAG,
    ERROR_RESTARTED,
    EXTENDED_FLAG,
    ID_MASK,
    MODELS,
    Answer,
    decode_answer,
    decode_command,
    fault_words,
    is_ec_answer,
)
from actdistill_ros.arm.sdk_settings import SdkSettings

READOUT_RAD = (-0.29, 5.32)  # gripper motor at −5 mm and 93 mm of jaw, where the vendor SDK stops for good
LIMIT_MIN = (-3.14, -0.05, -0.1, -1.6, -1.57, -2.0)  # of the joints [rad]; a test holds them to control/limits.py
LIMIT_MAX = (2.618, 3.5, 3.2, 1.55, 1.57, 2.0)
TORQUE_MAX = (30.0, 40.0, 30.0, 15.0, 10.0, 10.0, 1.5)  # [Nm], joints and gripper
REPORTABLE = {"DM_J4310": 18.0 * 0.424, "DM_J4340": 18.0, "EC_A4310": 58.8}  # [Nm], where the motor's scale ends
NEVER = 0.0
FRESH_SHARE, LATE_SHARE = 0.25, 0.5
"""Shares of the answer timeout: how old an answer of a motor that answers is, how far behind its answers may be."""
FORGIVEN_HZ = 10.0
"""Lost answers that are forgiven per second, as long as they do not add up to lateness."""
AWAY_S = 1.0
"""A motor that was silent for longer owes nothing when it is back; after less its answers may have been on the way."""
DOUBT_S = 2.0
"""One that was silent for less is believed to be punctual after it has answered for so long."""
PAUSE_S, HUSH_S = 0.004, 0.003
"""No command for so long and no answer for so long: none is on the way."""
SURPLUS = 5
"""Answers to commands that were thought to be answered, which cannot be so many without lateness."""


@dataclass
class Track:
    """One motor: its newest answer and command, when each came, and times of the commands that it has not answered."""

    answer: bytes = b""
    answered_s: float = NEVER
    command: bytes = b""
    commanded_s: float = NEVER
    owed: deque[float] = field(default_factory=deque)
    surplus: int = 0
    back_s: float = NEVER
    strained_s: float = NEVER


class BusMonitor:
    """Fed with every frame of the bus; times are monotonic seconds."""

    def __init__(self, settings: SdkSettings) -> None:
        self._settings, self.motors = settings, MODELS[settings.model]
        self.tracks = [Track() for _ in self.motors]
        self._index = {motor.id: index for index, motor in enumerate(self.motors)}
        self._forgiven_s = self._returned_s = NEVER
        self.commanded_s = NEVER
        self.foreign: int | None = None
        self.error: int | None = None
        self.other_model = ""
        self.link_fault = ""

    def take(self, identifier: int, data: bytes, now_s: float) -> None:
        """One frame that was on the bus."""
        if identifier == DM_ANSWER_ID:
            index = self._index.get(data[0] & 0xF)
            if index is None:
                self.foreign = identifier
            elif not self.motors[index].kind.damiao:
                self.other_model = f"{self.motors[index].name} answers as a Damiao motor"
            else:
                self._answered(index, data, now_s)
            return
        index = self._index.get(identifier)
        if index is not None:
            if is_ec_answer(data):
                if self.motors[index].kind.damiao:
                    self.other_model = f"{self.motors[index].name} answers as an EC motor"
                else:
                    self._answered(index, data, now_s)
                return
            track = self.tracks[index]
            track.command, track.commanded_s, self.commanded_s = data, now_s, now_s
            track.owed.append(now_s)
        elif identifier & ERROR_FLAG and not identifier & EXTENDED_FLAG:
            self._error(identifier)
        else:
            self.foreign = identifier

    def _answered(self, index: int, data: bytes, now_s: float) -> None:
        track = self.tracks[index]
        away_s = now_s - track.answered_s
        if away_s > AWAY_S:
            track.owed.clear()  # what it did not hear it does not owe
        elif away_s > self._settings.answer_timeout_s:
            track.back_s = now_s
        if track.owed:
            track.owed.popleft()
        else:
            track.surplus = min(track.surplus + 1, 2 * SURPLUS)
        track.answer, track.answered_s = data, now_s

    def _error(self, identifier: int) -> None:
        self.error = identifier
        if identifier & ERROR_BUS_OFF:
            self.link_fault = "bus-off"
        elif identifier & ERROR_RESTARTED:
            self.link_fault = ""

    def returned(self, now_s: float) -> None:
        """Whoever listens was away until now, as all are when a machine stops for a moment."""
        self._returned_s = now_s

    def silent_s(self, heard_s: float, now_s: float) -> float:
        """How long nobody was heard by a listener who was there. Away or not, after `heartbeat_timeout_s` all counts: one
        who is away again and again must not wait for ever."""
        silent_s = now_s - heard_s
        return silent_s if silent_s > self._settings.heartbeat_timeout_s else min(silent_s, now_s - self._returned_s)

    def answers(self) -> list[Answer | None]:
        """The newest answer of each motor; None if it never answered."""
        return [
            decode_answer(motor, track.answer) if track.answer else None
            for motor, track in zip(self.motors, self.tracks, strict=True)
        ]

    def unheard(self) -> tuple[str, ...]:
        """Motors that never answered."""
        return tuple(motor.name for motor, track in zip(self.motors, self.tracks, strict=True) if not track.answer)

    def damped(self) -> bool:
        """Whether the newest command of every motor asks for no position."""
        for motor, track in zip(self.motors, self.tracks, strict=True):
            command = decode_command(motor, track.command) if track.command else None
            if command is not None and command.kp > 0.0:
                return False
        return True

    def faults(self, answers: list[Answer | None], now_s: float) -> dict[str, str]:
        """Motor name -> what is wrong with it, for the motors where something is."""
        self._forgive(now_s)
        found = {
            motor.name: self._fault(index, answer, now_s)
            for index, (motor, answer) in enumerate(zip(self.motors, answers, strict=True))
        }
        return {name: words for name, words in found.items() if words}

    def _forgive(self, now_s: float) -> None:
        """Tell answers that were lost, or commands that were not heard, from answers that are on the way."""
        forgiven = int((now_s - self._forgiven_s) * FORGIVEN_HZ)
        if forgiven:
            self._forgiven_s = now_s
        fresh_s = FRESH_SHARE * self._settings.answer_timeout_s
        for track in self.tracks:
            track.surplus = max(0, track.surplus - forgiven)
            answered = track.answered_s >= track.commanded_s
            if answered and now_s - track.commanded_s > PAUSE_S and fresh_s > now_s - track.answered_s > HUSH_S:
                track.owed.clear()
            elif track.back_s and now_s - track.back_s > DOUBT_S:
                track.owed.clear()
                track.back_s = NEVER
            elif not self._late(track, now_s):
                for _ in range(min(forgiven, len(track.owed))):
                    track.owed.popleft()

    def _late(self, track: Track, now_s: float) -> bool:
        limit_s = LATE_SHARE * self._settings.answer_timeout_s
        return track.surplus >= SURPLUS or bool(track.owed and now_s - track.owed[0] > limit_s)

    def _fault(self, index: int, answer: Answer | None, now_s: float) -> str:
        settings, motor, track = self._settings, self.motors[index], self.tracks[index]
        if answer is None or self.silent_s(track.answered_s, now_s) > settings.answer_timeout_s:
            return "no answer"
        if words := fault_words(motor, answer.fault):
            return words
        for temperature_c, words in zip(answer.temperature_c, ("driver too hot", "coil too hot")):
            if temperature_c > settings.temperature_limit_c:
                return words if motor.kind.damiao else "coil too hot"
        # One that just fell silent is not late: it answers nothing.
        answers = now_s - track.answered_s < FRESH_SHARE * settings.answer_timeout_s
        if answers and self._late(track, now_s):
            return "answers late"
        return self._strain(index, answer, now_s) or self._place(index, answer)

    def _strain(self, index: int, answer: Answer, now_s: float) -> str:
        track, settings = self.tracks[index], self._settings
        limit = settings.torque_share * min(TORQUE_MAX[index], REPORTABLE[self.motors[index].kind.name])
        if abs(answer.torque_nm) < limit:
            track.strained_s = NEVER
        elif track.strained_s == NEVER:
            track.strained_s = now_s
        return "over-current" if track.strained_s and now_s - track.strained_s > settings.over_current_s else ""

    def _place(self, index: int, answer: Answer) -> str:
        position = answer.position_rad
        if index == 6:
            inside = READOUT_RAD[0] < position < READOUT_RAD[1]
            return "" if inside else f"reads {position:.2f} rad, outside {READOUT_RAD[0]} … {READOUT_RAD[1]} rad"
        low, high, more = LIMIT_MIN[index], LIMIT_MAX[index], self._settings.limit_tolerance_rad
        if low - more < position < high + more:
            return ""
        return f"is at {position:.2f} rad, outside {low} … {high} rad"


def foreign_words(identifier: int) -> str:
    kind = "an error" if identifier & ERROR_FLAG else "an extended" if identifier & EXTENDED_FLAG else "a standard"
    return f"{kind} frame with id 0x{identifier & ID_MASK:X} that belongs to no motor of this arm is on the bus"
