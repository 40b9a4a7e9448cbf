"""Whoever dies, the motors end damped or held by design: asserted on the last frames of the bus."""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sdk_parts import SDK, Bus, bus, fault_of, held, kill, living, until  # noqa: F401

from actdistill_ros.control.modes import Mode

DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from sdk_parts import SDK, START, sweep
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.sdk_arm import SdkArm
folder = Path({folder!r})
arm = SdkArm(EmulatedCan("can0", folder), SDK, emulated=folder)
arm.connect()
print("moving", flush=True)
while True:
    sweep(arm, 1.0)
"""


def driver(bus: Bus) -> subprocess.Popen:
    """A driver process that moves the arm, in a session of its own."""
    code = DRIVER.format(tests=str(Path(__file__).parent), folder=str(bus.folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline().strip() == "moving"
    until(bus.stiff, "motion")
    return process


def test_an_sdk_process_that_is_killed_is_named_and_the_motors_damp(held):
    bus, loop = held
    began = time.monotonic()
    kill(bus.processes()["sdk_child"])
    fault_of(loop, "ERROR: the vendor SDK was killed by SIGKILL", Mode.DAMPING)
    until(bus.damped, "damping frames")
    assert time.monotonic() - began < 1.0
    last = [record.pid for record in bus.frames() if record.pid][-7:]
    assert len(set(last)) == 1 and last[0] == bus.processes().get("guard", last[0])


def test_an_sdk_process_that_hangs_is_killed_and_the_motors_damp(held):
    bus, loop = held
    stuck = bus.processes()["sdk_child"]
    kill(stuck, signal.SIGSTOP)
    fault_of(loop, "ERROR: the vendor SDK got stuck and commanded nothing for", Mode.DAMPING)
    until(bus.damped, "damping frames")
    until(lambda: not Path(f"/proc/{stuck}").exists(), "the end of the SDK process")


def stopped(bus: Bus) -> dict[str, int]:
    """Guard and SDK process stand still for longer than an SDK may be silent, and shorter than a guard may be."""
    processes = bus.processes()
    for pid in processes.values():
        kill(pid, signal.SIGSTOP)
    time.sleep(SDK.silence_timeout_s + 0.05)
    return processes


def test_a_machine_that_stops_for_a_moment_does_not_take_the_power_from_the_arm(held):
    bus, loop = held
    processes = stopped(bus)
    kill(processes["guard"], signal.SIGCONT)
    time.sleep(0.03)  # it looks first, the SDK speaks later
    kill(processes["sdk_child"], signal.SIGCONT)
    went_on_s = time.monotonic()
    until(lambda: sum(r.pid == processes["sdk_child"] for r in bus.frames(went_on_s)) > 700, "the SDK to go on")
    until(lambda: not loop.state().driver.faults, "feedback")
    state = loop.state().driver
    assert (state.mode, state.faults) == (Mode.HOLD, ()) and bus.processes() == processes and bus.stiff()


def test_an_sdk_that_got_stuck_while_the_guard_was_away_is_killed_and_the_motors_damp(held):
    bus, loop = held
    processes = stopped(bus)
    kill(processes["guard"], signal.SIGCONT)
    fault_of(loop, "ERROR: the vendor SDK got stuck and commanded nothing for", Mode.DAMPING)
    until(bus.damped, "damping frames")
    until(lambda: not Path(f"/proc/{processes['sdk_child']}").exists(), "the end of the SDK process")


def test_a_guard_that_is_killed_is_named_and_the_motors_damp(held):
    bus, loop = held
    kill(bus.processes()["guard"])
    fault_of(loop, "ERROR: the guard of can0 ended", Mode.DAMPING)
    until(bus.damped, "damping")
    until(lambda: not bus.processes(), "the end of both processes")
    assert bus.damped()


def test_a_guard_that_hangs_is_killed_and_the_motors_damp(held):
    bus, loop = held
    kill(bus.processes()["guard"], signal.SIGSTOP)
    fault_of(loop, "ERROR: the guard of can0 was silent for more than 0.5 s and was killed", Mode.DAMPING)
    until(lambda: not bus.processes(), "the end of both processes")
    assert bus.damped()


def test_guard_and_sdk_process_killed_together_leave_motors_that_the_driver_damps(held):
    bus, loop = held
    processes = bus.processes()
    for name in ("guard", "sdk_child"):
        kill(processes[name], signal.SIGSTOP)
    for name in ("guard", "sdk_child"):
        kill(processes[name])
    fault_of(loop, "ERROR: the guard of can0 ended", Mode.DAMPING)
    until(bus.damped, "damping frames")


def test_a_driver_whose_whole_group_is_killed_mid_motion_leaves_an_arm_that_rests_and_then_damps(bus):
    process = driver(bus)
    died = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not bus.processes(), "the end of guard and SDK process")
    process.stdout.close()
    assert bus.damped() and time.monotonic() - died < 3.0
    held = [record.time_s for record, command in bus.commands() if command.kp > 0.0][-1] - died
    assert 0.05 < held < 1.0


def test_everything_killed_at_once_holds_by_design(bus):
    process = driver(bus)
    processes = [process.pid, *bus.processes().values()]
    for pid in processes:
        kill(pid, signal.SIGSTOP)
    for pid in processes:
        kill(pid)
    process.wait()
    process.stdout.close()
    until(lambda: not bus.processes(), "the end of all")
    assert bus.stiff()  # nobody is left: the motors keep their last target, and only the power switch ends that
