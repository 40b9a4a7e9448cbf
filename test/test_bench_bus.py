"""The benches that need a bus: bad commands end in frames inside the limits, faults end safe."""

from __future__ import annotations

import numpy as np
import pytest
from arm_parts import HOME_Q

from actdistill_ros.arm import sdk_settings
from actdistill_ros.bench import bus_fuzz, driver_faults
from actdistill_ros.control.limits import JOINT_MAX


def test_no_command_however_bad_puts_a_frame_outside_the_limits(tmp_path):
    found = bus_fuzz.run(tmp_path, HOME_Q, commands=3000, seed=1)
    assert found["violations"] == [] and found["frames"] > 1000
    assert max(found["worst_step_rad"]) > 0.001  # the arm did move


def sent(*positions_and_stiffness: tuple[float, float]) -> np.ndarray:
    """Frames to one motor, 2 ms apart, without velocity."""
    return np.array([(1.0 + 0.002 * i, at, 0.0, kp) for i, (at, kp) in enumerate(positions_and_stiffness)])


def test_frames_outside_the_limits_and_jumps_are_found():
    checker = bus_fuzz.FrameChecker()
    checker._check_frames(0, sent((0.0, 70.0), (0.5, 70.0), (JOINT_MAX[0] + 0.1, 70.0)))
    words = " ".join(checker.violations)
    assert "joint1 was sent to 2.7180 rad" in words and "joint1 stepped 0.5000 rad between two frames" in words


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([(JOINT_MAX[0] + 0.003, 0.0), (JOINT_MAX[0] + 0.003, 3.5), (JOINT_MAX[0], 3.5)], 0),  # rests there
        ([(JOINT_MAX[0] + 0.003, 0.0), (JOINT_MAX[0] + 0.003, 3.5), (JOINT_MAX[0] + 0.003, 3.5)], 1),  # is kept there
        ([(JOINT_MAX[0], 0.0), (JOINT_MAX[0] + 0.003, 3.5)], 1),  # is sent there
        ([(JOINT_MAX[0] + 0.06, 0.0), (JOINT_MAX[0] + 0.06, 3.5)], 1),  # further than an arm may rest
        ([(JOINT_MAX[0] + 0.003, 3.5)], 1),  # nobody knows where it was
    ],
)
def test_only_the_first_frame_under_power_may_be_where_an_arm_rests_outside_its_limits(frames, found):
    checker = bus_fuzz.FrameChecker(start_tolerance_rad=0.05)
    checker._check_frames(0, sent(*frames))
    assert len(checker.violations) == found


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
