"""From what a device says to what the arm is told: one session at a device, and a leader arm's clutch."""

from __future__ import annotations

import numpy as np
import pytest

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.teleop.leader import LAG_M, PULL_PER_S, Clutch
from actdistill_ros.teleop.session import AGAIN_S, Session
from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

forward = X5.chain.forward

JOG = np.repeat([0.2, 0.8], 3)


class Device:
    """A source that says what it is told to; the last device, so that a session can open it again."""

    def __init__(self, loss_is_stop: bool = False) -> None:
        self.loss_is_stop, self.says, self.there = loss_is_stop, Intent(False, np.zeros(6)), True

    def __call__(self, now_s: float) -> Device:
        if not self.there:
            raise SourceError("not there")
        return self

    def read(self, now_s: float) -> Intent:
        if not self.there:
            raise SourceLost("unplugged")
        return self.says

    def close(self) -> None:
        pass


FORWARD = Intent(True, np.array([1.0, 0, 0, 0, 0, 0]), gripper=0.0)


def test_a_session_scales_the_motion_to_the_jog_speed():
    device = Device()
    session = Session(device, JOG, False, 0.0)
    session.scale = 0.5
    session.step(0.0)
    device.says = FORWARD
    output = session.step(0.02)
    assert output.deadman and output.gripper == 0.0 and not output.tool
    np.testing.assert_allclose(output.twist, [0.1, 0, 0, 0, 0, 0])


def test_a_dead_man_that_is_held_when_the_device_comes_up_does_not_count():
    device = Device()
    device.says = FORWARD
    session = Session(device, JOG, False, 0.0)
    output = session.step(0.0)
    assert output.deadman is False and not output.twist.any() and output.gripper is None
    device.says = Intent(False, np.zeros(6))
    session.step(0.02)
    device.says = FORWARD
    assert session.step(0.04).deadman


@pytest.mark.parametrize("loss_is_stop", [False, True])
def test_a_lost_device_is_a_stop_and_must_be_pressed_anew_when_it_is_back(loss_is_stop):
    device = Device(loss_is_stop)
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    device.says, device.there = FORWARD, False
    output = session.step(0.02)
    assert output.deadman is False and output.stop == loss_is_stop and "unplugged" in output.notes[0]
    assert session.step(0.04).deadman is None
    session.stopped()
    device.there = True
    assert "let go of the dead-man once" in session.step(0.02 + AGAIN_S).notes[0]
    assert session.step(0.04 + AGAIN_S).deadman is False


def test_a_stop_is_repeated_until_the_driver_says_yes():
    device = Device()
    device.says = Intent(False, np.zeros(6), stop=True)
    session = Session(device, JOG, False, 0.0)
    asked = [session.step(0.02 * i).stop for i in range(30)]
    assert asked[0] and 5 <= sum(asked) <= 7
    device.says = Intent(False, np.zeros(6))
    assert any(session.step(1.0 + 0.02 * i).stop for i in range(10))
    session.stopped()
    assert not any(session.step(2.0 + 0.02 * i).stop for i in range(10))


def test_a_pressed_stop_overrules_the_dead_man():
    device = Device()
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    device.says = Intent(True, np.ones(6), stop=True)
    output = session.step(0.02)
    assert output.deadman is False and not output.twist.any()


# -- a leader arm
START_Q = np.array([0.0, 1.5, 1.2, -1.2, 0.0, 0.0])


class Follower:
    """An arm that does what the clutch says, 50 times a second."""

    def __init__(self) -> None:
        self.clutch, self.arm = Clutch(), forward(START_Q + [0.5, 0.0, 0.0, 0.2, 0.0, 0.0])

    def step(self, leader_q: np.ndarray, held: bool = True) -> np.ndarray:
        twist = self.clutch.twist(leader_q, held, self.arm)
        self.arm = integrate(self.arm, 0.02 * twist[:3], 0.02 * twist[3:])
        return twist


def test_pressing_the_dead_man_moves_nothing_wherever_the_leader_is():
    np.testing.assert_allclose(Follower().step(START_Q), 0.0, atol=1e-9)


def test_the_arm_repeats_the_leaders_motion_from_where_it_is():
    follower = Follower()
    before, leader_before = follower.arm, forward(START_Q)
    for i in range(200):
        follower.step(START_Q + [0.001 * min(i, 100), 0.0, 0.0, 0.0, 0.0, 0.0])
    move, turn = difference(forward(START_Q + [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]), leader_before)
    np.testing.assert_allclose(follower.arm.position_m - before.position_m, move, atol=1e-4)
    np.testing.assert_allclose(difference(follower.arm, before)[1], turn, atol=1e-3)


def test_a_leader_that_is_let_go_moves_nothing_and_is_taken_up_where_it_is_then():
    follower = Follower()
    follower.step(START_Q)
    assert not follower.step(START_Q + 0.2, held=False).any()
    np.testing.assert_allclose(follower.step(START_Q + 0.2), 0.0, atol=1e-9)


def test_a_leader_that_runs_ahead_slips_so_that_the_arm_stops_soon_after_the_hand():
    follower = Follower()
    follower.step(START_Q)
    twist = follower.step(START_Q + [0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.linalg.norm(twist[:3]) <= PULL_PER_S * LAG_M + 1e-9
    before = follower.arm.position_m
    for _ in range(200):
        follower.step(START_Q + [0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.linalg.norm(follower.arm.position_m - before) < LAG_M


def test_no_leader_moves_an_arm_whose_pose_is_not_known_now():
    device, arm = Device(), forward(START_Q)
    device.says = Intent(False, joints=START_Q)
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    session.see(arm, 0.02)
    device.says = Intent(True, joints=START_Q)
    session.step(0.02)
    device.says = Intent(True, joints=START_Q + 0.05)
    assert session.step(0.04).twist.any()
    assert not session.step(0.4).twist.any()
    session.see(None, 0.42)
    assert not session.step(0.42).twist.any()
