"""The driver node over the unmodified vendor SDK: it moves the arm by chunks, and signals end it damped."""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from arm_parts import HOME_Q, action, chunk, settings_file
from ros_rig import ros  # noqa: F401
from sdk_parts import Bus, until
from test_arm_driver_node import PATIENT

from actdistill_ros.msg import ActionChunk, ArmState
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.arm_messages import chunk_message
from actdistill_ros.srv import SetMode


TRIES, STATES = 5, 40
"""Chunks that may be lost before both sides know each other, and states to wait for each."""


@pytest.fixture
def home(tmp_path):
    """A bus whose arm hovers over the table, as the driver's workspace expects."""
    bus = Bus(tmp_path, start=HOME_Q)
    yield bus
    bus.close()


class Node:
    """The driver node in a process of its own, holding, and a peer that commands it."""

    def __init__(self, ros, bus: Bus) -> None:  # noqa: F811
        words = [sys.executable, "-m", "actdistill_ros.nodes.arm_driver_node", "--ros-args"]
        config = str(settings_file(bus.folder, **PATIENT))
        for name, text in {"hardware": "sdk_sim", "sim_endpoint": str(bus.folder), "config": config}.items():
            words += ["-p", f"{name}:={text}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(ros.domain_id)}
        self.process = subprocess.Popen(words, env=environment, start_new_session=True)
        self.ros, peer = ros, ros.peer()
        self.states = ros.hear(peer, ArmState, "arm/state", qos.STATE)
        self.chunks = peer.create_publisher(ActionChunk, "policy/chunk", qos.STATE)
        modes = peer.create_client(SetMode, "arm/set_mode")
        assert modes.wait_for_service(timeout_sec=20.0)
        ros.until(lambda: self.states and self.chunks.get_subscription_count(), "the driver's topics")

        def given_to_the_policy() -> bool:
            """Asked again: on a machine that is short of time the motors' answers may be too old for a start."""
            future = modes.call_async(SetMode.Request(mode=ArmState.POLICY))
            ros.until(future.done, "an answer of arm/set_mode")
            return future.result().success

        ros.until(given_to_the_policy, "mode POLICY")
        ros.until(bus.stiff, "power")

    def move(self) -> None:
        """Until the driver has the chunk: it may not know this publisher yet, though this one knows the driver."""
        for _ in range(TRIES):
            message = chunk_message(chunk(*[action(x=0.01)] * 8, stamp_s=time.time()))
            self.chunks.publish(message)
            if self._took(message.header.stamp):
                return
        pytest.fail(f"the driver took none of {TRIES} chunks; it says {self.states[-1].reason}")

    def _took(self, stamp) -> bool:
        """Whether the chunk with this stamp is in one of the driver's next states."""
        before = len(self.states)
        self.ros.until(lambda: self._has(stamp, before) or len(self.states) > before + STATES, "the driver's state")
        return self._has(stamp, before)

    def _has(self, stamp, since: int) -> bool:
        return any(state.chunk_stamp == stamp for state in self.states[since:])


@pytest.fixture
def node(ros, home):  # noqa: F811
    node = Node(ros, home)
    yield node
    if node.process.poll() is None:
        node.process.kill()
    node.process.wait()


def test_a_chunk_moves_the_arm_behind_the_sdk(node, home):
    start = node.states[-1].tcp_measured.position.x
    node.move()
    node.ros.until(lambda: node.states[-1].actions_done == 8, "eight actions done")
    node.ros.until(lambda: abs(node.states[-1].tcp_measured.position.x - start - 0.08) < 0.008, "the arm to arrive")


def test_a_policy_that_is_gone_mid_motion_leaves_an_arm_that_rests_under_power(node, home):
    node.move()
    # Nothing more comes, as after a kill of the inference node, or of the camera node that it waits for.
    node.ros.until(lambda: any(s.mode == ArmState.HOLD and "policy silent" in s.reason for s in node.states), "HOLD")
    assert home.stiff()
    last = [command for record, command in home.commands() if record.id == 1][-20:]
    assert len({command.position_rad for command in last}) <= 2  # steps of the wire
    assert all(abs(command.velocity_rad_s) < 0.05 for command in last)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_mid_motion_ends_in_order_and_leaves_the_motors_damped(node, home, number):
    node.move()
    node.ros.until(lambda: node.states[-1].actions_done >= 2, "motion")
    began = time.monotonic()
    os.killpg(node.process.pid, number)
    assert node.process.wait(5.0) == 0
    until(lambda: not home.processes(), "the end of guard and SDK process", 5.0 - (time.monotonic() - began))
    assert home.damped()


def test_a_driver_node_that_is_killed_mid_motion_leaves_the_motors_damped(node, home):
    node.move()
    node.ros.until(lambda: node.states[-1].actions_done >= 2, "motion")
    os.killpg(node.process.pid, signal.SIGKILL)
    until(lambda: not home.processes(), "the end of guard and SDK process")
    assert home.damped()
