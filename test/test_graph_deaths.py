"""Whichever process of the graph dies while the policy moves the arm, the motors end held or damped, and the arm goes
on once that process is back: real nodes, the unmodified vendor SDK, and the frame log of the bus."""

# ruff: noqa: F811

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import closing

import pytest
from actdistill_ros.msg import ArmState
from graph_parts import (
    CHUNK_S,
    POLICY_HOLD_S,
    SLACK_S,
    TELEOP_HOLD_S,
    Aftermath,
    Nodes,
    Operator,
    hardware,  # noqa: F401
)
from sdk_parts import SDK, kill, until

from actdistill_ros.bringup import DRIVER

DOMAIN = 1 + os.getpid() % 100
FORGOTTEN_S = 10.0
"""After this nothing of a killed process stands in the way of the next one; the middleware's own time is 20 s."""


@pytest.fixture(scope="module")
def alone(hardware):
    """The graph's nodes, each on its own, and their operator."""
    with closing(Operator(hardware, DOMAIN)) as operator, closing(Nodes(hardware, DOMAIN)) as nodes:
        yield nodes, operator


@pytest.fixture
def moving(alone):
    """Every node runs, and the policy moves the arm."""
    nodes, operator = alone
    nodes.start()
    operator.begin(nodes.alive)
    return nodes, operator


def goes_on(nodes: Nodes, operator: Operator) -> None:
    """What died is started again, nothing else is, and a new task moves the arm."""
    pids = {name: process.pid for name, process in nodes.processes.items() if process.poll() is None}
    nodes.start()
    operator.begin(nodes.alive)
    assert pids.items() <= {name: process.pid for name, process in nodes.processes.items()}.items()


def test_an_inference_node_that_is_killed_leaves_an_arm_that_rests_held_and_then_damps(moving, hardware):
    nodes, operator = moving
    died = nodes.kill("inference_node")
    operator.state(ArmState.HOLD, "policy silent for")
    assert hardware.bus.stiff()
    operator.state(ArmState.DAMPING, "no valid chunk for")
    until(hardware.bus.damped, "damping")
    after = Aftermath(hardware.bus, died)
    assert after.inside_limits() and after.rested_s() < CHUNK_S + SLACK_S
    # Counted from the last chunk, which may be one chunk old and a step of the policy more.
    assert POLICY_HOLD_S - 2 * CHUNK_S < after.powered_s() < POLICY_HOLD_S + SLACK_S
    goes_on(nodes, operator)


def test_a_camera_node_that_is_killed_ends_the_task_by_name_and_leaves_an_arm_that_is_held(moving, hardware):
    nodes, operator = moving
    died = nodes.kill("camera_node")
    assert re.search("camera: (front|wrist) silent for 1[.]", operator.ending())  # whichever fell silent first
    operator.state(ArmState.HOLD, "asked to hold")
    ended = time.monotonic()
    assert ended - died < 1.0 + CHUNK_S + SLACK_S
    until(lambda: time.monotonic() > ended + 0.5, "half a second of hold")
    after = Aftermath(hardware.bus, died)
    assert after.inside_limits() and after.rested_s() < 1.0 + CHUNK_S + SLACK_S
    assert hardware.bus.stiff() and after.last_s() > ended + 0.4 - died
    goes_on(nodes, operator)


def test_a_monitor_node_that_is_killed_is_not_missed_by_the_arm(moving, hardware):
    nodes, operator = moving
    done = operator.steps()
    nodes.kill("monitor_node")
    until(lambda: operator.steps() > done + 2, "more steps of the policy")
    assert operator.states[-1].mode == ArmState.POLICY


def test_a_driver_node_that_is_killed_is_named_by_the_task_and_its_motors_rest_and_then_damp(moving, hardware):
    nodes, operator = moving
    died = nodes.kill(DRIVER)
    until(lambda: not hardware.bus.processes(), "the end of guard and SDK process")
    assert hardware.bus.damped()
    after = Aftermath(hardware.bus, died)
    assert after.inside_limits() and after.rested_s() < 0.1 + SLACK_S
    assert 0.1 < after.powered_s() < 0.4 + SLACK_S
    assert "arm: arm/state silent for" in operator.ending()
    goes_on(nodes, operator)


def test_an_sdk_process_that_is_killed_is_named_and_its_motors_damp_at_once(moving, hardware):
    nodes, operator = moving
    child, died = hardware.bus.processes()["sdk_child"], time.monotonic()
    kill(child)
    operator.state(ArmState.DAMPING, "ERROR: the vendor SDK was killed by SIGKILL")
    assert "arm: ERROR: the vendor SDK was killed by SIGKILL" in operator.ending()
    until(hardware.bus.damped, "damping frames")
    after = Aftermath(hardware.bus, died)
    assert after.inside_limits() and after.powered_s() < 0.3
    assert after.last_s() < SDK.silence_timeout_s + SLACK_S
    goes_on(nodes, operator)


def test_everything_killed_at_once_with_guard_and_sdk_process_is_held_by_design(moving, hardware):
    nodes, operator = moving
    others = list(hardware.bus.processes().values())
    for pid in (*nodes.pids(), *others):
        kill(pid, signal.SIGSTOP)
    for pid in others:
        kill(pid)
    nodes.kill(*nodes.names)
    until(lambda: not hardware.bus.processes(), "the end of all")
    died = time.monotonic()
    # Nobody is left: the motors keep their last target, and only the power switch ends that.
    until(lambda: max(abs(motor[1]) for motor in hardware.bus.real().values()) < 0.05, "an arm at rest")
    until(lambda: time.monotonic() > died + 0.3, "a silent bus")
    assert hardware.bus.stiff() and Aftermath(hardware.bus, died).last_s() == 0.0
    assert Aftermath(hardware.bus, died - 0.5).inside_limits()
    goes_on(nodes, operator)


def test_a_teleop_node_that_is_killed_with_its_dead_man_held_leaves_an_arm_that_rests_held_and_then_damps(
    moving, hardware
):
    nodes, operator = moving
    operator.jog()
    died = nodes.kill("teleop_node")
    operator.state(ArmState.HOLD, "teleop silent for")
    operator.state(ArmState.DAMPING, "teleop silent for")
    until(hardware.bus.damped, "damping")
    after = Aftermath(hardware.bus, died)
    assert after.inside_limits() and after.rested_s() < 0.5 + SLACK_S
    assert TELEOP_HOLD_S - 0.4 < after.powered_s() < TELEOP_HOLD_S + SLACK_S
    operator.release()
    dead = operator.peer.count_publishers("teleop/deadman")
    operator.ros.until(lambda: operator.peer.count_publishers("teleop/deadman") < dead, "the dead node to be forgotten")
    assert dead == 1 and time.monotonic() - died < FORGOTTEN_S + SLACK_S
    nodes.start()
    operator.ask(ArmState.HOLD, reset=True)
    operator.jog()
    operator.release()
