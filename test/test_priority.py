"""Who goes first on the processor, with permission and without."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading

import pytest

from actdistill_ros import priority
from actdistill_ros.policy.threads import worker


def permitted() -> bool:
    return not priority.refusal()


def in_thread(call):
    found: list = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_that_claims_goes_first_and_its_children_do_not():
    if not permitted():
        pytest.skip("this user may not use real-time priorities")

    def claim():
        assert priority.claim(priority.TICK) == ""
        child = in_thread(lambda: os.sched_getscheduler(0))
        return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, child

    policy, level, child = in_thread(claim)
    assert policy == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK and level == priority.TICK
    assert child == os.SCHED_OTHER


SPIN = """
from actdistill_ros import priority
print(priority.claim(priority.TICK), flush=True)
while True:
    pass
"""


def test_a_real_time_thread_that_never_rests_is_ended_by_the_kernel():
    if not permitted():
        pytest.skip("this user may not use real-time priorities")
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    try:
        assert process.wait(10.0) < 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_without_permission_it_says_once_what_lacks_and_how_to_allow_it(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    why = priority.refusal()
    assert "no real-time priority (Operation not permitted)" in why and "rtprio 40" in why and "docs/real_arm.md" in why


def test_a_lower_limit_is_used_as_far_as_it_goes(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (7, 7) if which == resource.RLIMIT_RTPRIO else (-1, -1))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, policy, param: asked.append(param.sched_priority))
    assert priority.claim(priority.TICK) == "" and asked == [7]


def test_the_guard_can_interrupt_an_sdk_that_spins_and_the_kernel_can_interrupt_all():
    assert priority.BUS < priority.TICK < priority.GUARD < priority.NEEDED < 50


def test_the_policy_steps_back_and_the_rest_of_its_process_does_not():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with worker(5) as pool:
        nice = pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert nice == min(19, before + 5) and os.getpriority(os.PRIO_PROCESS, 0) == before
