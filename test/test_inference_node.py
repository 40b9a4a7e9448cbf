"""inference_node runs tasks by the book: a chunk when the last is done, one task at a time, a reason for each end."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from policy_parts import FRAME, PlayedArm, tiny_checkpoint
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from actdistill_ros.action import ExecuteTask
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.control import step_gate, task
from actdistill_ros.control.task import Task
from actdistill_ros.msg import ActionChunk, ArmState, Routing
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.image_messages import image_message
from actdistill_ros.nodes.inference_node import InferenceNode
from actdistill_ros.nodes.lifecycle import autostart
from actdistill_ros.nodes.stamps import to_seconds
from actdistill_ros.policy import device
from actdistill_ros.policy.config import RouterConfig
from actdistill_ros.srv import StartTask, TaskStatus


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


class Graph:
    """The node under test with an arm, two cameras and a client around it."""

    def __init__(self, ros, checkpoint: str, **parameters) -> None:  # noqa: F811
        self.ros = ros
        self.node = ros.spin(ros.make(InferenceNode, checkpoint=checkpoint, **parameters))
        self.peer = ros.peer(spun=False)
        self.arm = PlayedArm(self.peer, time.time)
        self.sizes = {"front": FRAME, "wrist": FRAME}
        self._cameras = {n: self.peer.create_publisher(Image, f"camera/{n}/image_raw", qos.IMAGES) for n in self.sizes}
        self.peer.create_timer(1 / 50, self._show)
        self.routing = ros.hear(self.peer, Routing, "policy/routing", qos.STATE)
        self.goals = ActionClient(self.peer, ExecuteTask, "execute_task")
        ros.spin(self.peer)
        self.feedback: list = []

    def _show(self) -> None:
        for name, size in list(self.sizes.items()):
            self._cameras[name].publish(image_message(np.zeros((size, size, 3), np.uint8), time.time(), name))

    def wait(self, future, what: str):
        self.ros.until(future.done, what)
        return future.result()

    def send(self, instruction: str, timeout_s: float = 60.0):
        self.ros.until(self.goals.server_is_ready, "execute_task")
        goal = ExecuteTask.Goal(instruction=instruction, timeout_s=timeout_s)
        sent = self.ros.run(self.goals.send_goal_async, goal, lambda m: self.feedback.append(m.feedback))
        return self.wait(sent, "the goal's answer")

    def call(self, service_type, name: str, **request):
        client = self.peer.create_client(service_type, name)
        self.ros.until(client.service_is_ready, name)
        return self.wait(client.call_async(service_type.Request(**request)), f"the answer of {name}")

    def result(self, goal):
        answer = self.wait(goal.get_result_async(), "the result")
        return answer.status, answer.result

    def instruct(self, instruction: str) -> None:
        assert self.ros.run(self.node.set_parameters, [Parameter("instruction", value=instruction)])[0].successful

    def until_steps(self, count: int) -> None:
        self.ros.until(lambda: len(self.arm.chunks) >= count, f"{count} chunks")


@pytest.fixture
def graph(ros, checkpoint):  # noqa: F811
    built = Graph(ros, checkpoint)
    assert autostart(built.node)
    return built


def test_a_goal_sets_the_arm_to_policy_steps_until_its_time_is_up_and_leaves_the_arm_in_hold(graph):
    now_s = [1000.0]
    graph.node._task = Task(lambda: now_s[0])  # its time is up when the test says so, however slow this machine is
    goal = graph.send("lift the red block", timeout_s=1.0)
    assert goal.accepted
    now_s[0] += 0.75
    graph.until_steps(3)
    now_s[0] += 0.25
    status, result = graph.result(goal)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.verdict, result.reason) == ("unjudged", "timeout")
    assert result.steps > 2 and result.seconds == pytest.approx(1.0)
    graph.ros.until(lambda: len(graph.arm.chunks) == result.steps, "the chunk of every step")
    graph.ros.until(lambda: graph.arm.asked == [ArmState.POLICY, ArmState.HOLD], "hold at the end")
    assert graph.feedback[0].steps == 1 and graph.feedback[0].compute_share == 1.0 and graph.feedback[0].latency_ms > 0


def test_a_chunk_says_what_made_it_and_its_stamp_is_the_capture_time(graph):
    graph.arm.reports = 6  # longer than a frame may be older than the end of an action
    goal = graph.send("lift the red block")
    graph.until_steps(2)
    first, second = graph.arm.chunks[:2]
    assert first.instruction == "lift the red block" and first.checkpoint_id.startswith("checkpoint")
    assert (len(first.actions), first.execute, first.period_s) == (8, 4, 0.1)
    assert first.header.frame_id == "base_link"
    assert to_seconds(first.header.stamp) < to_seconds(second.header.stamp) < time.time()
    routing = graph.ros.until(lambda: graph.routing, "routing")[0]
    assert routing.header.stamp == first.header.stamp and list(routing.executed) == [True, True]
    assert {"decoder", "step", "capture_to_chunk"} <= set(routing.stages)
    goal.cancel_goal_async()


def test_no_chunk_is_sent_while_the_arm_still_has_actions(graph):
    graph.arm.reports = 10_000
    graph.send("lift the red block")
    graph.until_steps(1)
    heard = len(graph.feedback)
    reports = graph.ros.hear(graph.peer, ArmState, "arm/state")
    graph.ros.until(lambda: len(reports) > 30, "thirty reports of a busy arm")
    assert len(graph.arm.chunks) == 1 and heard <= 1


def test_a_cancelled_goal_ends_as_cancelled(graph):
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    graph.wait(goal.cancel_goal_async(), "the cancellation")
    status, result = graph.result(goal)
    assert (status, result.reason) == (GoalStatus.STATUS_CANCELED, "cancelled")
    graph.ros.until(lambda: graph.arm.asked[-1] == ArmState.HOLD, "hold after cancelling")


def test_a_second_goal_is_refused_while_the_first_runs_and_welcome_after_it(graph):
    first = graph.send("lift the red block")
    assert not graph.send("push the blue block left").accepted
    graph.wait(first.cancel_goal_async(), "the cancellation")
    graph.result(first)
    assert graph.send("push the blue block left").accepted


def test_the_service_twins_start_tell_and_cancel_a_task(graph):
    assert graph.call(TaskStatus, "task_status").running is False
    started = graph.call(StartTask, "start_task", instruction="lift the red block")
    assert (started.success, started.message) == (True, "")
    graph.until_steps(1)
    status = graph.call(TaskStatus, "task_status")
    assert (status.running, status.instruction, status.verdict) == (
        True,
        "lift the red block",
        "",
    ) and status.steps >= 1
    again = graph.call(StartTask, "start_task", instruction="push the blue block left")
    assert not again.success and "is running; cancel it first" in again.message
    assert graph.call(Trigger, "cancel_task").success
    status = graph.call(TaskStatus, "task_status")
    assert (status.running, status.verdict, status.reason) == (False, "unjudged", "cancelled")
    assert not graph.call(Trigger, "cancel_task").success


def test_an_instruction_never_seen_in_training_is_run_with_a_warning_that_lists_the_closest(graph):
    started = graph.call(StartTask, "start_task", instruction="lift the red brick")
    assert started.success and "never seen in training" in started.message and "lift the red block" in started.message


@pytest.mark.parametrize(("instruction", "timeout_s"), [("", 1.0), ("lift the red block", -1.0)])
def test_a_goal_that_makes_no_sense_is_refused(graph, instruction, timeout_s):
    assert not graph.send(instruction, timeout_s).accepted


def test_a_task_ends_with_the_reason_when_the_arm_leaves_the_policy_and_the_arm_is_not_overruled(graph):
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    graph.arm.become(ArmState.ESTOP, "pressed by the operator")
    status, result = graph.result(goal)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, "arm: in mode ESTOP: pressed by the operator")
    assert graph.arm.asked == [ArmState.POLICY]


def test_a_task_ends_when_teleop_takes_the_arm_and_does_not_begin_again_when_it_lets_go(graph):
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    graph.arm.become(ArmState.TELEOP, "teleop took over from policy: the dead-man is held")
    status, result = graph.result(goal)
    expected = "arm: in mode TELEOP: teleop took over from policy: the dead-man is held"
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, expected)
    graph.arm.become(ArmState.TELEOP, "teleop has the arm and stands still: the dead-man is not held")
    chunks, reports = len(graph.arm.chunks), graph.ros.hear(graph.peer, ArmState, "arm/state")
    graph.ros.until(lambda: len(reports) > 50, "fifty reports of an arm that was let go")
    assert graph.arm.asked == [ArmState.POLICY] and len(graph.arm.chunks) == chunks


def test_a_task_ends_when_the_arm_refuses_the_mode(graph):
    graph.arm.agrees = False
    status, result = graph.result(graph.send("lift the red block"))
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, "arm: the arm has faults")


def test_a_task_ends_when_a_camera_goes_silent(graph):
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    del graph.sizes["wrist"]
    _, result = graph.result(goal)
    assert result.reason.startswith("camera: wrist silent for")


def test_a_task_ends_when_a_camera_has_not_the_size_of_the_contract(graph):
    graph.sizes["front"] = 64
    _, result = graph.result(graph.send("lift the red block"))
    assert result.reason.startswith("contract: camera front gives 64 × 64, the checkpoint was trained on 48 × 48")


def test_a_task_ends_when_a_step_fails(graph, monkeypatch):
    def fail(observation):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(graph.node._policy, "step", fail)
    _, result = graph.result(graph.send("lift the red block"))
    assert result.reason == "policy: RuntimeError('out of memory')" and not graph.arm.chunks


def noted(graph, monkeypatch) -> list[str]:
    """Resets and steps of the policy as they come."""
    calls, policy = [], graph.node._policy
    reset, step = policy.reset, policy.step
    monkeypatch.setattr(policy, "reset", lambda: calls.append("reset") or reset())
    monkeypatch.setattr(policy, "step", lambda observation: calls.append("step") or step(observation))
    return calls


def test_each_task_begins_with_a_policy_that_knows_nothing_of_the_one_before(graph, monkeypatch):
    calls = noted(graph, monkeypatch)
    monkeypatch.setattr(step_gate, "TAKE_UP_S", 60.0)  # a chunk that is taken up late is no refused one
    for tasks in (1, 2):
        goal, before = graph.send("lift the red block"), len(graph.arm.chunks)
        graph.until_steps(before + 2)
        graph.wait(goal.cancel_goal_async(), "the cancellation")
        graph.result(goal)
        assert calls.count("reset") == tasks
        assert calls[0] == "reset" and calls[-1] == "step"


def test_a_policy_whose_chunk_was_not_taken_forgets_that_it_said_it(graph, monkeypatch):
    calls = noted(graph, monkeypatch)
    graph.arm.takes = False
    graph.send("lift the red block")
    graph.ros.until(lambda: calls.count("step") >= 3, "three steps")
    assert calls[:6] == ["reset", "step"] * 3


def test_an_instruction_parameter_starts_a_task_without_timeout_and_a_new_one_replaces_it(ros, checkpoint):  # noqa: F811
    graph = Graph(ros, checkpoint, instruction="lift the red block", timeout_s=0.1)
    assert autostart(graph.node)
    graph.until_steps(3)
    assert graph.arm.chunks[-1].instruction == "lift the red block"
    graph.instruct("push the blue block left")
    graph.ros.until(
        lambda: graph.arm.chunks[-1].instruction == "push the blue block left", "the new instruction's chunk"
    )
    graph.instruct("")
    assert not graph.call(TaskStatus, "task_status").running


def test_the_arm_is_not_asked_to_follow_a_new_instruction_before_it_holds_after_the_old_one(
    ros, checkpoint, monkeypatch  # noqa: F811
):
    monkeypatch.setattr(task, "ANSWER_S", 60.0)
    graph = Graph(ros, checkpoint, instruction="lift the red block")
    graph.arm.stops = ros.executor.create_future()
    assert autostart(graph.node)
    graph.until_steps(1)
    graph.instruct("push the blue block left")
    reports = ros.hear(graph.peer, ArmState, "arm/state")
    ros.until(lambda: len(reports) > 30, "thirty reports of an arm that is being stopped")
    assert graph.arm.asked == [ArmState.POLICY]
    ros.run(graph.arm.stops.set_result, None)
    ros.until(lambda: graph.arm.asked == [ArmState.POLICY, ArmState.HOLD, ArmState.POLICY], "POLICY after HOLD")


def test_an_arm_that_does_not_say_that_it_holds_is_asked_all_the_same(ros, checkpoint, monkeypatch):  # noqa: F811
    monkeypatch.setattr(task, "ANSWER_S", 0.1)
    graph = Graph(ros, checkpoint, instruction="lift the red block")
    graph.arm.stops = ros.executor.create_future()
    assert autostart(graph.node)
    graph.until_steps(1)
    before = len(graph.arm.asked)
    graph.instruct("push the blue block left")
    ros.until(lambda: graph.arm.asked[before:], "POLICY again")
    assert set(graph.arm.asked) == {ArmState.POLICY}


def test_a_task_waits_for_cameras_that_come_up_later(ros, checkpoint):  # noqa: F811
    graph = Graph(ros, checkpoint, instruction="lift the red block")
    graph.sizes.clear()
    assert autostart(graph.node)
    reports = graph.ros.hear(graph.peer, ArmState, "arm/state")
    graph.ros.until(lambda: len(reports) > 20, "twenty reports without cameras")
    assert graph.arm.asked == []
    graph.sizes.update(front=FRAME, wrist=FRAME)
    graph.until_steps(1)


def test_an_inactive_node_refuses_tasks_and_deactivation_ends_one(graph):
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    graph.ros.run(graph.node.trigger_deactivate)
    assert graph.result(goal)[1].reason == "inference_node was deactivated"
    assert "not active" in graph.call(StartTask, "start_task", instruction="lift the red block").message
    assert graph.ros.run(graph.node.trigger_cleanup) == TransitionCallbackReturn.SUCCESS
    assert autostart(graph.node)


@pytest.mark.parametrize("change", [{"checkpoint": "/nowhere"}, {"checkpoint": ""}, {"cameras": ["front"]}])
def test_a_checkpoint_that_does_not_fit_is_refused_at_configure(ros, checkpoint, change):  # noqa: F811
    node = ros.make(InferenceNode, **{"checkpoint": checkpoint, **change})
    assert not autostart(node)


@pytest.mark.parametrize(
    ("name", "says"), [("cuda:99", "(finds no GPU here|this machine has cuda:0)"), ("gpu", "is none; expected cpu")]
)
def test_a_device_that_is_not_here_is_refused_at_configure_with_what_is(ros, checkpoint, name, says):  # noqa: F811
    node = ros.spin(ros.make(InferenceNode, checkpoint=checkpoint, device=name))
    heard = ros.hear_log(ros.peer(), node)
    assert not autostart(node)
    reason = re.compile(f"^device '?{name}'?.*{says}")
    ros.until(lambda: any(reason.search(line.msg) for line in heard), "the reason in the log")


def test_of_several_gpus_only_those_that_are_there_are_taken():
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        device.check(name, gpus=lambda: 2)
    with pytest.raises(ContractError, match="device cuda:2: this machine has cuda:0, cuda:1. Take one of these"):
        device.check("cuda:2", gpus=lambda: 2)
    with pytest.raises(ContractError, match="finds no GPU here. Install torch for CUDA"):
        device.check("cuda", gpus=lambda: 0)


def test_the_budget_can_change_while_a_task_runs_and_the_layers_that_run_follow(ros, tmp_path):  # noqa: F811
    student = tiny_checkpoint(tmp_path / "student", layers=4, router=RouterConfig(budget=0.5))
    graph = Graph(ros, str(student), instruction="lift the red block")
    assert autostart(graph.node)
    first = graph.ros.until(lambda: graph.routing, "routing")[0]
    assert first.budget == pytest.approx(0.5) and first.compute_share == 0.75  # 0, 1 and the last, which always runs
    graph.node.set_parameters([Parameter("budget", value=1.0)])
    last = graph.ros.until(lambda: graph.routing[-1].budget == 1.0 and graph.routing[-1], "the new budget")
    assert list(last.executed) == [True] * 4 and last.compute_share == 1.0
    refused = graph.node.set_parameters([Parameter("budget", value=0.1)])[0]
    assert not refused.successful and "0.1 is not in 0.25 … 1" in refused.reason
    assert not graph.node.set_parameters([Parameter("budget", value=1.5)])[0].successful


def test_a_policy_without_router_refuses_a_budget(graph):
    refused = graph.node.set_parameters([Parameter("budget", value=0.5)])[0]
    assert not refused.successful and "has no router" in refused.reason
    assert graph.node.set_parameters([Parameter("budget", value=1.0)])[0].successful


def test_chunks_reach_a_late_subscriber_only_new(graph):
    graph.send("lift the red block")
    graph.until_steps(2)
    late = graph.ros.hear(graph.peer, ActionChunk, "policy/chunk", qos.STATE)
    chunk = graph.ros.until(lambda: late, "a chunk")[0]
    assert to_seconds(chunk.header.stamp) > to_seconds(graph.arm.chunks[0].header.stamp)
