"""Every fault that can be injected behind the vendor SDK, one after the other on an arm that holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.bus_monitor import DOUBT_S
from actdistill_ros.arm.emulated.link import Record
from actdistill_ros.arm.emulated.process import BusProcess
from actdistill_ros.arm.frames import DM_ANSWER_ID, Answer, Motor, decode_answer, is_ec_answer
from actdistill_ros.arm.guard import OFF_S, SAID_S
from actdistill_ros.arm.sdk_settings import SdkSettings
from actdistill_ros.control import settings
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import LIMP, Mode

WAIT_S = 10.0
PROMPT_MS = 100.0
"""The bar: a fault is named within this time of its detection."""
GRIPPER_OPEN_RAD = 5.03


class Sign(Enum):
    """What on the bus tells of a fault; docs/safety.md says when a fault counts as detected."""

    ANSWER = "the first answer that shows it"
    SILENCE = "a motor's last answer"
    STOP = "the last command of the SDK"
    FRAME = "a frame that is no motor's"
    LATE = "the first answer after the pause"


@dataclass(frozen=True)
class Fault:
    """says: part of the fault that must be named. sign: what on the bus tells of it, and after_s, how long that must
    last. shows: whether an answer shows it. dies: the SDK does not survive it, so the motors must end damped."""

    name: str
    inject: dict
    says: str
    sign: Sign
    after_s: float = 0.0
    shows: Callable[[Answer], bool] = lambda answer: True
    dies: bool = False
    heal: dict = field(default_factory=dict)

    @property
    def motor(self) -> str:
        """The motor to look at; where it is all the same, the first one."""
        return self.inject.get("motor", "joint1")


def faults(sdk: SdkSettings) -> tuple[Fault, ...]:
    """Every fault that can be injected."""
    silence = {"sign": Sign.SILENCE, "after_s": sdk.answer_timeout_s}
    stuck = {"sign": Sign.STOP, "after_s": SAID_S, "dies": True}
    frame = {"sign": Sign.FRAME, "dies": True}
    shown = {"sign": Sign.ANSWER}
    grip, turn = {"motor": "gripper", "position_rad": 6.5}, {"motor": "joint1", "position_rad": 6.5}
    return (
        Fault("one motor mute", {"motor": "joint3", "mute": True}, "joint3: no answer", **silence),
        Fault("all motors mute", {"mute": True}, "joint1: no answer", **silence),
        Fault("slow reply", {"late_s": 0.08}, "answers late", Sign.LATE, heal={"late_s": 0.0}),
        Fault("very slow reply", {"late_s": 0.2}, "answers late", Sign.LATE, heal={"late_s": 0.0}),
        Fault("fault nibble", {"motor": "joint5", "fault": 10}, "joint5: over-current", **shown,
              shows=lambda answer: answer.fault == 10),
        Fault("motor switched off", {"motor": "joint6", "fault": 0}, "joint6 switched off", Sign.ANSWER, OFF_S,
              lambda answer: answer.fault == 0, dies=True),
        Fault("driver too hot", {"motor": "joint6", "temperature_c": 96.0}, "joint6: driver too hot", **shown,
              shows=lambda answer: answer.temperature_c[0] > 95.0),
        Fault("coil too hot", {"motor": "joint2", "temperature_c": 96.0}, "joint2: coil too hot", **shown,
              shows=lambda answer: answer.temperature_c[0] > 95.0),
        Fault("torque on a Damiao joint", {"motor": "joint5", "torque_nm": 7.5}, "joint5: over-current", Sign.ANSWER,
              sdk.over_current_s, lambda answer: answer.torque_nm > 7.3),
        Fault("torque spike, joint", {"motor": "joint2", "torque_nm": 45.0}, "Over current", **stuck),
        Fault("torque spike, gripper", {"motor": "gripper", "torque_nm": 3.0}, "Over current", **stuck),
        Fault("gripper out of range", grip, "Gripper position error", **stuck,
              heal={"motor": "gripper", "position_rad": GRIPPER_OPEN_RAD}),
        Fault("joint out of range", turn, "pos data error", **stuck, heal={"motor": "joint1", "position_rad": 0.0}),
        Fault("foreign frame", {"foreign": 0x123}, "0x123", **frame),
        Fault("extended frame", {"foreign": 0x80000005}, "that belongs to no motor", **frame),
        Fault("error frame", {"foreign": 0x20000004}, "that belongs to no motor", **frame),
        Fault("second writer", {"foreign": 8}, "SIGABRT", **frame),
        Fault("bus-off", {"bus_off": True}, "bus-off", **frame, heal={"bus_off": False}),
    )  # fmt: skip


def run(folder: Path, start_rad: np.ndarray) -> dict:
    """Keys injected, safe, prompt, worst_ms and rows (see `_try`) of the report; prompt: how many were named in time,
    worst_ms: the longest time from detection to naming."""
    sdk = sdk_settings.load()
    bus = BusProcess(folder / "f", start_rad=start_rad.tolist())
    loop = DriverLoop(settings.load(), bus.arm(sdk))
    try:
        loop.start()
        rows = [_try(bus, loop, fault) for fault in faults(sdk)]
    finally:
        loop.stop()
        bus.close()
    delays_ms = [row["delay_ms"] for row in rows]
    return {
        "injected": len(rows),
        "safe": sum(row["safe"] for row in rows),
        "prompt": sum(delay_ms <= PROMPT_MS for delay_ms in delays_ms),
        "worst_ms": max(delays_ms, default=0.0),
        "rows": rows,
    }


def _try(bus: BusProcess, loop: DriverLoop, fault: Fault) -> dict:
    """named_ms: from the injection until the driver names it; detected_ms: from the injection until it could be known;
    delay_ms: from then until it was named."""
    never = float("inf")
    row = {"name": fault.name, "safe": False, "named_ms": never, "detected_ms": never, "delay_ms": never}
    row |= {"end": "", "said": ""}
    if why := _hold(bus, loop):
        return {**row, "said": f"the arm could not be started before it: {why}", "named_ms": -1.0}
    try:
        began = time.monotonic()
        bus.inject(**fault.inject)
        said = _wait(lambda: next((f for f in loop.state().driver.faults if fault.says in f), ""))
        named_s = time.monotonic()
        safe = bool(said) and bool(_wait(lambda: loop.state().driver.mode in (Mode.HOLD, *LIMP)))
        bus_back = "bus_off" in fault.inject and bus.inject(**fault.heal) is None
        if fault.dies or bus_back:
            safe = safe and bool(_wait(bus.damped))
        end = loop.state().driver
        row |= {"safe": safe, "end": end.mode.name, "said": said or end.reason}
        return row | _times(began, detected_s(fault, bus, began), named_s if said else never)
    finally:
        bus.inject(heal=True, **({} if "motor" in fault.heal else fault.heal))
        if "motor" in fault.heal:
            bus.inject(**fault.heal)
        if fault.sign in (Sign.SILENCE, Sign.LATE):
            time.sleep(1.25 * DOUBT_S)  # until the answers that are owed from then are forgotten


def _times(began_s: float, known_s: float, named_s: float) -> dict[str, float]:
    spans = {"named_ms": named_s - began_s, "detected_ms": known_s - began_s, "delay_ms": named_s - known_s}
    return {name: round(1e3 * span_s, 1) if math.isfinite(span_s) else math.inf for name, span_s in spans.items()}


def detected_s(fault: Fault, bus: BusProcess, began_s: float) -> float:
    """When the bus had told of the fault for as long as it takes to be one; infinity if never."""
    motor = next(motor for motor in bus.motors.values() if motor.name == fault.motor)
    last_s, sign_s = began_s, math.inf
    for record in bus.frames():
        if record.time_s < began_s - 0.05:
            continue
        if record.pid and fault.sign is Sign.STOP:
            if record.time_s - last_s > fault.after_s:
                break  # after this pause it is the guard that speaks
            last_s = record.time_s
        elif record.time_s < began_s or record.pid:
            continue
        elif fault.sign is Sign.FRAME and _is_strange(record, bus):
            return record.time_s + fault.after_s
        elif _answers(record, motor):
            if fault.sign is Sign.ANSWER and fault.shows(decode_answer(motor, record.data)):
                return record.time_s + fault.after_s
            if fault.sign is Sign.LATE and record.time_s - last_s > fault.inject["late_s"] / 2.0:
                return record.time_s + fault.after_s
            last_s = record.time_s
    if fault.sign in (Sign.SILENCE, Sign.STOP):
        sign_s = last_s + fault.after_s
    return sign_s


def _is_strange(record: Record, bus: BusProcess) -> bool:
    """Whether a frame that no process sent is no answer."""
    return not any(_answers(record, motor) for motor in bus.motors.values())


def _answers(record: Record, motor: Motor) -> bool:
    if motor.kind.damiao:
        return record.id == DM_ANSWER_ID and record.data[0] & 0xF == motor.id
    return record.id == motor.id and is_ec_answer(record.data)


def _hold(bus: BusProcess, loop: DriverLoop) -> str:
    """Hold under power without a fault, reconnecting if need be; why not, or empty."""
    why = "no power on the bus"

    def holds() -> bool:
        nonlocal why
        state = loop.state().driver
        lost = any(fault.startswith("ERROR") for fault in state.faults)
        try:
            if lost:
                why = loop.set_mode(Mode.IDLE, reset=True)
            elif why := "; ".join(state.faults):
                pass
            elif state.mode is not Mode.HOLD:
                why = loop.set_mode(Mode.HOLD)
            elif bus.stiff():
                return True
        except ArmError as error:
            why = str(error)
        time.sleep(0.05)
        return False

    return "" if _wait(holds) else why or "no power on the bus"


def _wait(condition: Callable[[], object], seconds: float = WAIT_S):
    """The condition's value, as soon as it is true or when the time is over."""
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.002)
    return found
