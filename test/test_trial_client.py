"""The client of trials against real ROS: tasks, cancel, letting the arm go, pictures."""

import numpy as np
import pytest
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import Image

from actdistill_ros.action import ExecuteTask
from actdistill_ros.msg import ArmState
from actdistill_ros.nodes import delivery
from actdistill_ros.nodes.image_messages import image_message
from actdistill_ros.nodes.qos import IMAGES
from actdistill_ros.nodes.trial_client import TrialClient
from actdistill_ros.srv import SetMode
from actdistill_ros.trials.protocol import Ended, TrialsError


class Graph:
    """Plays inference_node and arm_driver_node: goals wait in `goals` until the test ends them."""

    def __init__(self, node) -> None:
        self.node, self.goals, self.modes, self.cancels = node, [], [], []
        self.accepts, self.lets_go = True, True
        self.server = ActionServer(
            node,
            ExecuteTask,
            "execute_task",
            execute_callback=lambda goal: pytest.fail("the test ends goals itself"),
            goal_callback=lambda _: GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT,
            handle_accepted_callback=self.goals.append,
            cancel_callback=self._on_cancel,
        )
        node.create_service(SetMode, "arm/set_mode", self._on_mode)

    def end(self, goal, reason: str, steps: int, seconds: float) -> None:
        def finish(handle):
            handle.canceled() if handle.is_cancel_requested else handle.succeed()
            return ExecuteTask.Result(verdict="unjudged", reason=reason, steps=steps, seconds=seconds)

        goal.execute(finish)

    def _on_cancel(self, goal):
        self.cancels.append(goal)
        return CancelResponse.ACCEPT

    def _on_mode(self, request, response):
        self.modes.append(request.mode)
        response.success, response.message = self.lets_go, "" if self.lets_go else "the emergency stop is latched"
        return response


@pytest.fixture
def graph(ros):  # noqa: F811
    graph = Graph(ros.peer("inference_node"))
    yield graph
    ros.run(graph.server.destroy)


@pytest.fixture
def client(ros):  # noqa: F811
    client = TrialClient(pictures=("policy/overlay", "camera/front/image_raw"), domain_id=ros.domain_id)
    yield client
    client.close()


def test_a_task_runs_until_it_ends_with_its_own_reason(ros, graph, client):  # noqa: F811
    client.wait(10.0, lambda: None)
    client.start("pick up the red block", 12.5)
    goal = ros.until(lambda: graph.goals, "the goal")[0]
    assert (goal.request.instruction, goal.request.timeout_s) == ("pick up the red block", 12.5)
    assert client.ended() is None
    ros.until(
        lambda: goal.publish_feedback(ExecuteTask.Feedback(steps=3, seconds=0.5)) or client.progress() == (3, 0.5),
        "feedback",
    )
    graph.end(goal, "timeout", 30, 12.5)
    assert ros.until(client.ended, "the end") == Ended("timeout", 30, 12.5)


def test_a_cancelled_task_says_when_it_has_ended(ros, graph, client):  # noqa: F811
    client.wait(10.0, lambda: None)
    client.cancel()  # nothing runs: nothing happens
    client.start("pick up the red block", 10.0)
    client.cancel()
    goal = ros.until(lambda: graph.cancels, "the cancel")[0]
    assert client.ended() is None
    graph.end(goal, "cancelled", 5, 2.0)
    assert ros.until(client.ended, "the end") == Ended("cancelled", 5, 2.0)
    client.start("again", 10.0)
    assert client.ended() is None and client.progress() == (0, 0.0)


def test_a_refused_task_is_said_and_not_mixed_up_with_the_one_before(ros, graph, client):  # noqa: F811
    client.wait(10.0, lambda: None)
    client.start("pick up the red block", 10.0)
    graph.end(ros.until(lambda: graph.goals, "the goal")[0], "timeout", 5, 2.0)
    ros.until(client.ended, "the end")
    graph.accepts = False
    with pytest.raises(TrialsError, match="execute_task refused “fly away”"):
        client.start("fly away", 10.0)
    assert client.ended() is None


def test_the_arm_is_let_go_or_the_driver_says_why_not(graph, client):
    client.wait(10.0, lambda: None)
    client.let_go()
    assert set(graph.modes) == {ArmState.IDLE}
    graph.lets_go = False
    with pytest.raises(TrialsError, match="refused to go idle: the emergency stop is latched"):
        client.let_go()


def test_a_graph_that_does_not_come_up_is_named(client):
    with pytest.raises(TrialsError, match="execute_task did not appear in namespace / within 0 s"):
        client.wait(0.0, lambda: None)

    def dead():
        raise TrialsError("the graph ended with 1")

    with pytest.raises(TrialsError, match="the graph ended"):
        client.wait(10.0, dead)


def test_a_graph_that_is_seen_but_does_not_answer_is_waited_for_before_any_task_is_sent(ros, graph, client):  # noqa: F811
    client.wait(10.0, lambda: None)
    ros.run(ros.executor.remove_node, graph.node)
    with pytest.raises(TrialsError, match="execute_task is there and does not answer"):
        client.wait(1.0, lambda: None)
    ros.spin(graph.node)
    client.wait(10.0, lambda: None)
    client.start("pick up the red block", 10.0)
    assert len(ros.until(lambda: graph.goals, "the goal")) == 1


def refused(call, times: int):
    """The call, which the middleware refuses so many times first."""
    left = [delivery.Refused("Failed to send request")] * times

    def refusing(*arguments):
        if left:
            raise left.pop()
        return call(*arguments)

    return refusing


def test_what_the_middleware_refuses_once_is_asked_again(ros, graph, client, monkeypatch):  # noqa: F811
    client.wait(10.0, lambda: None)
    for service, name in ((client._tasks, "send_goal_async"), (client._modes, "call_async")):
        monkeypatch.setattr(service, name, refused(getattr(service, name), 1))
    client.start("pick up the red block", 10.0)
    client.let_go()
    assert len(graph.goals) == 1 and graph.modes == [ArmState.IDLE]


def test_a_middleware_that_refuses_every_request_is_named_and_the_client_lives_on(graph, client, monkeypatch):
    client.wait(10.0, lambda: None)
    monkeypatch.setattr(client._tasks, "send_goal_async", refused(client._tasks.send_goal_async, 3))
    with pytest.raises(TrialsError, match="the middleware refuses every request"):
        client.start("pick up the red block", 10.0)
    client.start("pick up the red block", 10.0)
    assert len(graph.goals) == 1


def test_the_overlay_is_shown_as_soon_as_there_is_one(ros, client):  # noqa: F811
    peer = ros.peer("cameras")
    camera = peer.create_publisher(Image, "camera/front/image_raw", IMAGES)
    overlay = peer.create_publisher(Image, "policy/overlay", IMAGES)
    assert client.picture() is None

    def shows(publisher, value: int) -> bool:
        publisher.publish(image_message(np.full((48, 64, 3), value, np.uint8), 1.0, "front"))
        picture = client.picture()
        return picture is not None and picture.shape == (48, 64, 3) and int(picture[0, 0, 0]) == value

    ros.until(lambda: shows(camera, 20), "the camera's picture")
    ros.until(lambda: shows(overlay, 90), "the overlay")
    camera.publish(image_message(np.full((48, 64, 3), 21, np.uint8), 2.0, "front"))
    assert int(client.picture()[0, 0, 0]) == 90
