"""Every fault that can be injected behind the vendor SDK, one after the other on an arm that holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.emulated.process import BusProcess
from actdistill_ros.control import settings
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import LIMP, Mode

WAIT_S = 10.0


@dataclass(frozen=True)
class Fault:
    """says: part of the fault that must be named. dies: the SDK does not survive it, so the motors must end damped."""

    name: str
    inject: dict
    says: str
    dies: bool = False
    heal: dict = field(default_factory=dict)


GRIPPER_OPEN_RAD = 5.03
FAULTS = (
    Fault("one motor mute", {"motor": "joint3", "mute": True}, "joint3: no answer"),
    Fault("all motors mute", {"mute": True}, "no answer"),
    Fault("slow reply", {"late_s": 0.08}, "answers late", heal={"late_s": 0.0}),
    Fault("fault nibble", {"motor": "joint5", "fault": 10}, "joint5: over-current"),
    Fault("motor switched off", {"motor": "joint6", "fault": 0}, "joint6 switched off", True),
    Fault("driver too hot", {"motor": "joint6", "temperature_c": 96.0}, "joint6: driver too hot"),
    Fault("coil too hot", {"motor": "joint2", "temperature_c": 96.0}, "joint2: coil too hot"),
    Fault("torque on a Damiao joint", {"motor": "joint5", "torque_nm": 7.5}, "joint5: over-current"),
    Fault("torque spike, joint", {"motor": "joint2", "torque_nm": 45.0}, "Over current", True),
    Fault("torque spike, gripper", {"motor": "gripper", "torque_nm": 3.0}, "Over current", True),
    Fault("gripper out of range", {"motor": "gripper", "position_rad": 6.5}, "Gripper position error", True,
          {"motor": "gripper", "position_rad": GRIPPER_OPEN_RAD}),
    Fault("joint out of range", {"motor": "joint1", "position_rad": 6.5}, "pos data error", True,
          {"motor": "joint1", "position_rad": 0.0}),
    Fault("foreign frame", {"foreign": 0x123}, "0x123", True),
    Fault("extended frame", {"foreign": 0x80000005}, "that belongs to no motor", True),
    Fault("error frame", {"foreign": 0x20000004}, "that belongs to no motor", True),
    Fault("second writer", {"foreign": 8}, "SIGABRT", True),
    Fault("bus-off", {"bus_off": True}, "bus-off", True, {"bus_off": False}),
)  # fmt: skip


def run(folder: Path, start_rad: np.ndarray) -> dict:
    """Keys injected, safe and rows (name, safe, named_ms, end, said) of the report."""
    bus = BusProcess(folder / "f", start_rad=start_rad.tolist())
    loop = DriverLoop(settings.load(), bus.arm(sdk_settings.load()))
    try:
        loop.start()
        rows = [_try(bus, loop, fault) for fault in FAULTS]
    finally:
        loop.stop()
        bus.close()
    return {"injected": len(rows), "safe": sum(row["safe"] for row in rows), "rows": rows}


def _try(bus: BusProcess, loop: DriverLoop, fault: Fault) -> dict:
    row = {"name": fault.name, "safe": False, "named_ms": float("inf"), "end": "", "said": ""}
    if why := _hold(bus, loop):
        return {**row, "said": f"the arm could not be started before it: {why}", "named_ms": -1.0}
    try:
        bus.inject(**fault.inject)
        began = time.monotonic()
        said = _wait(lambda: next((f for f in loop.state().driver.faults if fault.says in f), ""))
        named_ms = round(1e3 * (time.monotonic() - began), 1)
        safe = bool(said) and bool(_wait(lambda: loop.state().driver.mode in (Mode.HOLD, *LIMP)))
        bus_back = "bus_off" in fault.inject and bus.inject(**fault.heal) is None
        if fault.dies or bus_back:
            safe = safe and bool(_wait(bus.damped))
        end = loop.state().driver
        return {**row, "safe": safe, "named_ms": named_ms, "end": end.mode.name, "said": said or end.reason}
    finally:
        bus.inject(heal=True, **({} if "motor" in fault.heal else fault.heal))
        if "motor" in fault.heal:
            bus.inject(**fault.heal)


def _hold(bus: BusProcess, loop: DriverLoop) -> str:
    """Hold under power, reconnecting if need be; why not, or empty."""
    why = "no power on the bus"

    def holds() -> bool:
        nonlocal why
        try:
            lost = any(fault.startswith("ERROR") for fault in loop.state().driver.faults)
            why = loop.set_mode(Mode.IDLE, reset=True) if lost else ""
            why = why or loop.set_mode(Mode.HOLD)
        except ArmError as error:
            why = str(error)
        if why:
            time.sleep(0.05)
        return not why

    return "" if _wait(holds) and _wait(bus.stiff) else why or "no power on the bus"


def _wait(condition: Callable[[], object], seconds: float = WAIT_S):
    """The condition's value, as soon as it is true or when the time is over."""
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.002)
    return found
