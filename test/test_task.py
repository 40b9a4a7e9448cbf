"""One task at a time, from its instruction to the reason why it ended."""

from __future__ import annotations

import math

import pytest

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.control.task import CANCELLED, Phase, Task, TaskRefused, TaskReport, blame, timeout


@pytest.fixture
def rig():
    now = [10.0]
    return Task(lambda: now[0]), now


def test_a_task_counts_its_steps_and_seconds_until_it_ends_unjudged(rig):
    task, now = rig
    task.begin("  lift the \n red block ", 30.0)
    task.asked()
    task.entered()
    task.stepped()
    task.stepped()
    now[0] = 12.5
    assert task.report() == TaskReport(True, "lift the red block", "", "", 2, 2.5)
    ended = task.end(CANCELLED)
    now[0] = 99.0
    assert ended == task.report() == TaskReport(False, "lift the red block", "unjudged", "cancelled", 2, 2.5)


def test_a_second_task_is_refused_while_one_runs(rig):
    task, _ = rig
    task.begin("lift", 30.0)
    with pytest.raises(TaskRefused, match="'lift' is running; cancel it first"):
        task.begin("push", 30.0)
    task.end(CANCELLED)
    task.begin("push", 30.0)
    assert task.number == 2 and task.report().reason == ""


@pytest.mark.parametrize(("instruction", "timeout_s"), [(" ", 1.0), ("lift", 0.0), ("lift", math.nan), ("lift", -1.0)])
def test_a_task_that_makes_no_sense_is_refused(rig, instruction, timeout_s):
    with pytest.raises(TaskRefused):
        rig[0].begin(instruction, timeout_s)
    assert rig[0].phase is Phase.IDLE


def test_a_task_ends_when_its_time_is_up_and_one_without_timeout_goes_on(rig):
    task, now = rig
    task.begin("lift", 30.0)
    task.entered()
    now[0] += 29.9
    assert task.overdue() == ""
    now[0] += 0.1
    assert task.overdue() == "timeout"
    task.end("timeout")
    task.begin("lift", math.inf)
    task.entered()
    now[0] += 1e6
    assert task.overdue() == ""


def test_a_start_that_waits_too_long_says_for_what(rig):
    task, now = rig
    task.begin("lift", math.inf)
    now[0] += 14.0
    assert task.overdue("camera: no frames") == ""
    now[0] += 1.0
    assert task.overdue("camera: no frames") == "camera: no frames"
    task.asked()
    assert "arm/set_mode does not answer" in task.overdue()


def test_the_arm_is_asked_once_all_is_there_and_again_every_second_until_it_answers(rig):
    task, now = rig
    assert not task.may_ask("")
    task.begin("lift", math.inf)
    assert not task.may_ask("camera: no frames") and task.may_ask("")
    task.asked()
    now[0] += 0.9
    assert not task.may_ask("")
    now[0] += 0.1
    assert task.may_ask("")
    task.asked()
    assert not task.may_ask("")
    now[0] += 1.0
    task.entered()
    assert not task.may_ask("")


def test_an_arm_that_was_asked_to_hold_is_asked_to_follow_once_it_has_answered_or_after_a_second(rig):
    task, now = rig
    task.holding()
    task.begin("lift", math.inf)
    now[0] += 0.9
    assert not task.may_ask("")
    task.held()
    assert task.may_ask("")
    task.holding()
    assert not task.may_ask("")
    now[0] += 1.0
    assert task.may_ask("")


@pytest.mark.parametrize(("requested", "default", "meant"), [(5.0, 60.0, 5.0), (0.0, 60.0, 60.0), (0.0, 0.0, math.inf)])
def test_zero_seconds_mean_the_default_and_a_default_of_zero_means_none(requested, default, meant):
    assert timeout(requested, default) == meant


@pytest.mark.parametrize("requested", [-1.0, math.nan, math.inf])
def test_a_timeout_that_is_no_time_is_refused(requested):
    with pytest.raises(TaskRefused):
        timeout(requested, 60.0)


def test_a_failed_step_is_blamed_on_the_contract_or_the_policy():
    assert blame(ContractError("needs camera wrist")) == "contract: needs camera wrist"
    assert blame(KeyError("x")) == "policy: KeyError('x')"
