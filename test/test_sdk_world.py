"""The simulated world's motors behind the emulated bus and the unmodified vendor SDK, as with hardware:=sdk_sim."""

from __future__ import annotations

import time

import numpy as np
import pytest
from arm_parts import HOME_Q
from sdk_parts import Bus, until
from test_arm_driver_world import ask, endpoint  # noqa: F401

from actdistill_ros.arm.backend import JointCommand


@pytest.fixture
def bus(endpoint, ask):  # noqa: F811
    assert "error" not in ask(op="reset", suite="tabletop", task="bowl", seed=3)
    bus = Bus(endpoint, world=endpoint)
    yield bus
    bus.close()


def follow(arm, position_rad: np.ndarray, opening: float, seconds: float) -> None:
    """Go there in a straight line and stay a moment."""
    start, begin, ticks = arm.read().position_rad, time.monotonic(), round(seconds / 0.01)
    for tick in range(ticks + 30):
        share = min(1.0, (tick + 1) / ticks)
        arm.send(JointCommand(start + share * (position_rad - start), opening))
        time.sleep(max(0.0, begin + (tick + 1) * 0.01 - time.monotonic()))
        arm.read()


def arrives(arm, position_rad: np.ndarray, opening: float, tolerance_rad: float) -> None:
    """It is told to be there until it is: how soon depends on how busy this machine is, whether does not."""

    def there() -> bool:
        arm.send(JointCommand(position_rad, opening))
        feedback = arm.read()
        close = np.abs(feedback.position_rad - position_rad).max() < tolerance_rad
        return bool(close) and abs(feedback.gripper - opening) < 0.05

    until(there, f"the arm at {position_rad} and its gripper at {opening}")


def test_the_sdk_finds_the_world_s_arm_and_holds_it_against_its_weight(bus):
    arm = bus.arm()
    np.testing.assert_allclose(arm.connect().position_rad, HOME_Q, atol=0.02)
    follow(arm, HOME_Q, 1.0, 0.5)
    arrives(arm, HOME_Q, 1.0, 0.02)
    assert abs(arm.read().effort_nm[2]) > 1.0  # what it carries


def test_the_world_s_arm_and_gripper_go_where_the_sdk_is_told(bus):
    arm = bus.arm()
    arm.connect()
    goal = HOME_Q + np.array([0.2, 0.1, -0.1, 0.1, 0.1, 0.2])
    follow(arm, goal, 0.3, 1.0)
    arrives(arm, goal, 0.3, 0.03)


def test_a_scene_can_be_set_behind_the_sdk_between_damping_and_power(bus, ask):  # noqa: F811
    arm = bus.arm()
    arm.connect()
    follow(arm, HOME_Q + 0.1, 1.0, 0.5)
    assert "under power" in ask(op="reset", suite="tabletop", task="lift", seed=4)["error"]
    arm.damp()
    until(lambda: arm.damp() or not ask(op="status")["enabled"], "motors without power")
    assert "error" not in ask(op="reset", suite="tabletop", task="lift", seed=4)
    until(lambda: arm.damp() or np.abs(arm.read().position_rad - HOME_Q).max() < 0.05, "the arm at its start")
    follow(arm, np.clip(arm.read().position_rad, HOME_Q - 0.05, HOME_Q + 0.05), 1.0, 0.3)
    assert bus.stiff() and np.abs(arm.read().position_rad - HOME_Q).max() < 0.1
