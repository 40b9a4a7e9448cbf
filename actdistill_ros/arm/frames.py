"""CAN frames of the ARX5's motors: Damiao and EC-A4310, commands and answers, both directions.

Layouts were read from what the vendor SDK sends and accepts. Quantities are quantised by truncation over a symmetric
range, so zero does not exist on the wire: a position of exactly 0.0 was never measured.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

FRAME = struct.Struct("=IB3x8s")
"""struct can_frame: id with flags, length, data"""
ERROR_FLAG, EXTENDED_FLAG, ID_MASK = 0x20000000, 0x80000000, 0x1FFFFFFF
ERROR_BUS_OFF, ERROR_RESTARTED = 0x40, 0x100

POSITION_RAD, DM_VELOCITY, DM_TORQUE = 12.5, 45.0, 18.0  # ranges are ± these
EC_VELOCITY, EC_CURRENT = 18.0, 30.0
KP_MAX, KD_MAX = 500.0, 5.0
DM_ENABLE, DM_CLEAR = b"\xff" * 7 + b"\xfc", b"\xff" * 7 + b"\xfb"
BRAKE = bytes.fromhex("0000800000800800")
"""A command that brakes in both protocols, with neither position nor torque: safe to ask a motor of unknown kind."""
DM_SPECIAL = b"\xff" * 7
DM_ANSWER_ID = 0
EC_ANSWER_TYPE = 1
DM_ON, DM_OFF = 1, 0
DM_FAULTS = {
    0: "switched off",
    1: "",
    8: "over-voltage",
    9: "under-voltage",
    10: "over-current",
    11: "driver too hot",
    12: "coil too hot",
    13: "lost communication",
    14: "overload",
}


class Kind(Enum):
    """What a motor speaks, and how many Nm its torque unit is: to command, to read."""

    DM_J4310 = (0.424, 0.424)
    DM_J4340 = (1.0, 1.0)
    EC_A4310 = (1.4, 1.4 * 1.4)  # the vendor SDK reads with the constant squared

    @property
    def damiao(self) -> bool:
        return self is not Kind.EC_A4310


@dataclass(frozen=True)
class Motor:
    """One motor on the bus."""

    name: str
    id: int
    kind: Kind


def _arm(big: Kind) -> tuple[Motor, ...]:
    kinds = (big, big, big, *[Kind.DM_J4310] * 4)
    names = (*(f"joint{i + 1}" for i in range(6)), "gripper")
    return tuple(Motor(*motor) for motor in zip(names, (1, 2, 4, 5, 6, 7, 8), kinds, strict=True))


MODELS = {"X5": _arm(Kind.EC_A4310), "L5": _arm(Kind.DM_J4340)}
"""Six joints, then the gripper, as the vendor SDK configures them."""


def others(model: str) -> str:
    """The argument that says it is another model, in words."""
    return " or ".join(f"model:={name}" for name in MODELS if name != model)


@dataclass(frozen=True)
class Command:
    """torque: the motor adds kp (position - its own) + kd (velocity - its own) + torque [Nm]."""

    kp: float
    kd: float
    position_rad: float
    velocity_rad_s: float
    torque_nm: float


@dataclass(frozen=True)
class Answer:
    """fault: code as the motor gave it (Damiao: 0 off, 1 on, 8 … faults; EC: 0 is well). temperature_c: driver, coil
    (Damiao), or one (EC)."""

    position_rad: float
    velocity_rad_s: float
    torque_nm: float
    fault: int
    temperature_c: tuple[float, ...]


def _down(value: float, limit: float, bits: int) -> int:
    """Truncating quantiser over ±limit."""
    top = (1 << bits) - 1
    return min(max(int((value + limit) / (2.0 * limit) * top), 0), top)


def _up(code: int, limit: float, bits: int) -> float:
    return code * (2.0 * limit) / ((1 << bits) - 1) - limit


def _share(value: float, limit: float, bits: int) -> int:
    top = (1 << bits) - 1
    return min(max(int(value / limit * top), 0), top)


def encode_command(motor: Motor, command: Command) -> bytes:
    torque = command.torque_nm / motor.kind.value[0]
    position = _down(command.position_rad, POSITION_RAD, 16)
    kp = _share(command.kp, KP_MAX, 12)
    if motor.kind.damiao:
        word = position << 48 | _down(command.velocity_rad_s, DM_VELOCITY, 12) << 36 | kp << 24
        word |= _share(command.kd, KD_MAX, 12) << 12 | _down(torque, DM_TORQUE, 12)
    else:
        word = kp << 49 | _share(command.kd, KD_MAX, 9) << 40 | position << 24
        word |= _down(command.velocity_rad_s, EC_VELOCITY, 12) << 12 | _down(torque, EC_CURRENT, 12)
    return word.to_bytes(8, "big")


def decode_command(motor: Motor, data: bytes) -> Command | None:
    """None if the frame switches the motor (enable, clear, …) or asks something instead of commanding it."""
    word = int.from_bytes(data, "big")
    if motor.kind.damiao:
        if data[:7] == DM_SPECIAL:
            return None
        return Command(
            (word >> 24 & 0xFFF) * KP_MAX / 4095,
            (word >> 12 & 0xFFF) * KD_MAX / 4095,
            _up(word >> 48, POSITION_RAD, 16),
            _up(word >> 36 & 0xFFF, DM_VELOCITY, 12),
            _up(word & 0xFFF, DM_TORQUE, 12) * motor.kind.value[0],
        )
    if word >> 61:
        return None
    return Command(
        (word >> 49 & 0xFFF) * KP_MAX / 4095,
        (word >> 40 & 0x1FF) * KD_MAX / 511,
        _up(word >> 24 & 0xFFFF, POSITION_RAD, 16),
        _up(word >> 12 & 0xFFF, EC_VELOCITY, 12),
        _up(word & 0xFFF, EC_CURRENT, 12) * motor.kind.value[0],
    )


def is_ec_answer(data: bytes) -> bool:
    """Whether a frame on a motor's own id is an EC motor's answer.

    Commands have other top bits: no Damiao command asks for −9 … −6 rad.
    """
    return data[0] >> 5 == EC_ANSWER_TYPE


def encode_answer(motor: Motor, answer: Answer) -> tuple[int, bytes]:
    """CAN id and data."""
    position = _down(answer.position_rad, POSITION_RAD, 16)
    torque = answer.torque_nm / motor.kind.value[1]
    if motor.kind.damiao:
        word = (answer.fault << 4 | motor.id) << 56 | position << 40
        word |= _down(answer.velocity_rad_s, DM_VELOCITY, 12) << 28 | _down(torque, DM_TORQUE, 12) << 16
        word |= int(answer.temperature_c[0]) << 8 | int(answer.temperature_c[1])
        return DM_ANSWER_ID, word.to_bytes(8, "big")
    word = (EC_ANSWER_TYPE << 5 | answer.fault) << 56 | position << 40
    word |= _down(answer.velocity_rad_s, EC_VELOCITY, 12) << 28 | _down(torque, EC_CURRENT, 12) << 16
    word |= int(answer.temperature_c[0] * 2 + 50) << 8
    return motor.id, word.to_bytes(8, "big")


def decode_answer(motor: Motor, data: bytes) -> Answer:
    word = int.from_bytes(data, "big")
    position = _up(word >> 40 & 0xFFFF, POSITION_RAD, 16)
    velocity, torque = word >> 28 & 0xFFF, word >> 16 & 0xFFF
    if motor.kind.damiao:
        return Answer(
            position,
            _up(velocity, DM_VELOCITY, 12),
            _up(torque, DM_TORQUE, 12) * motor.kind.value[1],
            data[0] >> 4,
            (float(data[6]), float(data[7])),
        )
    return Answer(
        position,
        _up(velocity, EC_VELOCITY, 12),
        _up(torque, EC_CURRENT, 12) * motor.kind.value[1],
        data[0] & 0x1F,
        ((data[6] - 50) / 2,),
    )


def fault_words(motor: Motor, code: int) -> str:
    """Empty if the motor is well."""
    if motor.kind.damiao:
        return DM_FAULTS.get(code, f"fault code {code}")
    return f"fault code {code}" if code else ""


def damping(motor: Motor, kd: float) -> bytes:
    """Data of a command that only brakes: no position, no torque."""
    return encode_command(motor, Command(0.0, kd, 0.0, 0.0, 0.0))
