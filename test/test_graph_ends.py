"""Whoever ends the graph as a whole while the policy moves the arm, the arm is stopped, damped, and nobody is left
behind: real nodes under the real supervisor, the unmodified vendor SDK, and the frame log of the bus."""

# ruff: noqa: F811

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import closing

import pytest
from graph_parts import SLACK_S, Aftermath, Hardware, Operator, Supervised, hardware  # noqa: F401
from sdk_parts import kill, until

domains = itertools.count(2 + os.getpid() % 100)
"""One for each graph: what died in the one before is still remembered for a while."""


@pytest.fixture
def supervised(hardware):
    """The whole graph as `actdistill up` runs it, the policy moving the arm."""
    domain = next(domains)
    with closing(Operator(hardware, domain)) as operator, closing(Supervised(hardware, domain)) as graph:
        operator.begin(graph.alive)
        yield graph


def ends_damped(graph: Supervised, hardware: Hardware, began: float) -> Aftermath:
    """Nothing of the graph is left, and the motors were brought to rest and damped."""
    until(lambda: graph.gone() and not hardware.bus.processes(), "the end of every process")
    assert hardware.bus.damped()
    after = Aftermath(hardware.bus, began)
    assert after.inside_limits() and after.rested_s() < SLACK_S
    assert "Traceback" not in graph.said() and "never awaited" not in graph.said()
    return after


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_mid_motion_stops_the_arm_then_the_graph_in_order(supervised, hardware, number):
    began = time.monotonic()
    supervised.process.send_signal(number)
    assert supervised.process.wait(5.0) == 0, supervised.said()
    after = ends_damped(supervised, hardware, began)
    assert after.last_s() < 5.0


def test_all_processes_killed_at_once_leave_motors_that_the_guard_brings_to_rest_and_damps(supervised, hardware):
    killed = [supervised.process.pid, *supervised.nodes()]
    for pid in killed:
        kill(pid, signal.SIGSTOP)  # none may notice that another one is gone
    began = time.monotonic()
    for pid in killed:
        kill(pid)
    after = ends_damped(supervised, hardware, began)
    assert 0.1 < after.powered_s() < 0.4 + SLACK_S
