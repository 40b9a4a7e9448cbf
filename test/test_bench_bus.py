"""The benches that need a bus: bad commands end in frames inside the limits, faults end safe."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q
from sdk_parts import Bus, holding, until

from actdistill_ros.arm import sdk_settings
from actdistill_ros.bench import bus_fuzz, driver_faults
from actdistill_ros.control.limits import JOINT_MAX
from actdistill_ros.control.modes import Mode


def test_no_command_however_bad_puts_a_frame_outside_the_limits(tmp_path):
    found = bus_fuzz.run(tmp_path, HOME_Q, commands=3000, seed=1)
    assert found["violations"] == [] and found["frames"] > 1000
    assert max(found["worst_step_rad"]) > 0.001  # the arm did move


def test_frames_outside_the_limits_and_jumps_are_found():
    checker = bus_fuzz.FrameChecker()
    checker._check_frames(0, np.array([(1.000, 0.0, 0.0), (1.002, 0.5, 0.0), (1.004, JOINT_MAX[0] + 0.1, 0.0)]))
    words = " ".join(checker.violations)
    assert "joint1 was sent to 2.7180 rad" in words and "joint1 stepped 0.5000 rad between two frames" in words


def test_an_arm_that_rests_outside_its_limits_gets_no_frame_under_power_that_is_outside(tmp_path):
    at = HOME_Q.copy()
    at[5] = JOINT_MAX[5] + 0.03  # the last joint of a cycle, which the gains reach with a position from its begin
    bus, checker = Bus(tmp_path, start=at), bus_fuzz.FrameChecker()
    try:
        loop = bus.loop()
        for _ in range(10):
            holding(loop, bus)
            loop.set_mode(Mode.IDLE)
            until(lambda: not bus.stiff(), "damping")
            bus.inject(motor="joint6", position_rad=at[5])
            until(lambda: loop.state().feedback.position_rad[5] > JOINT_MAX[5] + 0.02, "the arm outside")
        checker.check(bus)
    finally:
        bus.close()
    assert checker.violations == [] and checker.frames > 50


def test_each_injected_fault_is_named_and_ends_safe(tmp_path, monkeypatch):
    every = driver_faults.faults
    wanted = ("coil too hot", "very slow reply", "torque spike, joint", "foreign frame", "bus-off")
    some = [fault for fault in every(sdk_settings.load()) if fault.name in wanted]
    monkeypatch.setattr(driver_faults, "faults", lambda sdk: some)
    report = driver_faults.run(tmp_path, HOME_Q)
    assert report["injected"] == report["safe"] == len(wanted), report["rows"]
    assert [row["end"] for row in report["rows"]] == ["HOLD", "HOLD", "DAMPING", "DAMPING", "DAMPING"]
    # How soon is the bench's to measure, on an idle machine; here it must only add up.
    for row in report["rows"]:
        assert row["named_ms"] == pytest.approx(row["detected_ms"] + row["delay_ms"], abs=0.2)
