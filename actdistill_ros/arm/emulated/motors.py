"""The electronics of seven motors: who listens, who answers, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

from actdistill_ros.arm.emulated.plant import RELAXED, Plant
from actdistill_ros.arm.frames import (
    DM_CLEAR,
    DM_ENABLE,
    DM_OFF,
    DM_ON,
    DM_SPECIAL,
    MODELS,
    Answer,
    decode_command,
    encode_answer,
)

WARM_C = 32.0
DISABLE = b"\xff" * 7 + b"\xfd"


@dataclass
class State:
    """What a motor knows of itself, and what was broken on purpose."""

    enabled: bool
    mute: bool = False
    fault: int | None = None
    temperature_c: float = WARM_C
    torque_nm: float | None = None


class Motors:
    """Answers every command with one frame, as the motors do. Damiao motors do nothing until they are enabled."""

    def __init__(self, model: str, plant: Plant) -> None:
        self._motors, self._plant = MODELS[model], plant
        self._index = {motor.id: index for index, motor in enumerate(self._motors)}
        self._names = {motor.name: index for index, motor in enumerate(self._motors)}
        self._states = [State(enabled=not motor.kind.damiao) for motor in self._motors]

    def tick(self, now_s: float) -> None:
        self._plant.tick(now_s)

    def hear(self, identifier: int, data: bytes, now_s: float) -> tuple[int, bytes] | None:
        """CAN id and data of the answer to a frame; None if nobody answers."""
        index = self._index.get(identifier)
        if index is None or self._states[index].mute:
            return None
        motor, state = self._motors[index], self._states[index]
        if motor.kind.damiao and data[:7] == DM_SPECIAL:
            self._switch(index, data, now_s)
        else:
            command = decode_command(motor, data)
            if command is None:
                return None
            if state.enabled:
                self._plant.drive(index, command, now_s)
        return encode_answer(motor, self._answer(index, now_s))

    def _switch(self, index: int, data: bytes, now_s: float) -> None:
        state = self._states[index]
        if data == DM_ENABLE:
            state.enabled = True
        elif data == DISABLE:
            state.enabled = False
            self._plant.drive(index, RELAXED, now_s)
        elif data == DM_CLEAR and state.fault:
            state.fault = None

    def _answer(self, index: int, now_s: float) -> Answer:
        motor, state = self._motors[index], self._states[index]
        position, velocity, torque = self._plant.look(index, now_s)
        well = (DM_ON if state.enabled else DM_OFF) if motor.kind.damiao else 0
        return Answer(
            position,
            velocity,
            torque if state.torque_nm is None else state.torque_nm,
            well if state.fault is None else state.fault,
            (state.temperature_c, state.temperature_c),
        )

    def inject(
        self,
        motor: str | None = None,
        mute: bool | None = None,
        fault: int | None = None,
        temperature_c: float | None = None,
        torque_nm: float | None = None,
        position_rad: float | None = None,
        heal: bool = False,
    ) -> None:
        """Break one motor, or all if none is named; `heal` undoes it first. Raises KeyError for an unknown name.

        fault: code in the answers. torque_nm, temperature_c: what the answers claim. position_rad: put it there.
        """
        for index in range(len(self._motors)) if motor is None else (self._names[motor],):
            state = self._states[index]
            if heal:
                state.mute, state.fault, state.temperature_c, state.torque_nm = False, None, WARM_C, None
            state.mute = state.mute if mute is None else mute
            state.fault = state.fault if fault is None else fault
            state.temperature_c = state.temperature_c if temperature_c is None else temperature_c
            state.torque_nm = state.torque_nm if torque_nm is None else torque_nm
            if position_rad is not None:
                self._plant.place(index, position_rad)

    def report(self, now_s: float) -> dict[str, list[float]]:
        """Position [rad], velocity [rad/s] and torque [Nm] of each motor as they really are."""
        return {motor.name: list(self._plant.look(i, now_s)) for i, motor in enumerate(self._motors)}
