"""Runs tasks through a graph for trials: a client of execute_task and arm/set_mode that keeps the newest picture."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import numpy as np
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.action import ActionClient
from sensor_msgs.msg import Image

from actdistill_ros.action import ExecuteTask
from actdistill_ros.msg import ArmState
from actdistill_ros.nodes import delivery
from actdistill_ros.nodes.image_messages import to_rgb
from actdistill_ros.nodes.participant import Participant
from actdistill_ros.nodes.qos import NEWEST_IMAGE
from actdistill_ros.srv import SetMode
from actdistill_ros.trials.protocol import Ended, TrialsError

ANSWER_S = 10.0
RETRY_S = 1.0
_TRIES = 3


class TrialClient:
    """A `trials.protocol.Robot`. Its callbacks run in a thread of its own; every method is for one other thread."""

    def __init__(self, namespace: str = "/", pictures: tuple[str, ...] = (), domain_id: int | None = None) -> None:
        """pictures: image topics to watch, the best one first. See `Participant`."""
        self._participant = Participant("trials", namespace, domain_id)
        self._node = self._participant.node
        self._tasks = ActionClient(self._node, ExecuteTask, "execute_task")
        self._modes = self._node.create_client(SetMode, "arm/set_mode")
        # Last of all clients: who can answer this one has discovered the others too.
        self._greetings = self._node.create_client(CancelGoal, "execute_task/_action/cancel_goal")
        self._newest: dict[str, Image] = {}
        self._pictures = pictures
        for topic in pictures:
            self._node.create_subscription(
                Image, topic, lambda message, topic=topic: self._keep(topic, message), NEWEST_IMAGE
            )
        self._goal = self._result = None
        self._progress = (0, 0.0)
        self._participant.start()

    def wait(self, timeout_s: float, alive: Callable[[], None]) -> None:
        """Until tasks can be run; `alive` may raise meanwhile. Raises TrialsError when the time is up."""
        until = time.monotonic() + timeout_s
        while not (self._tasks.wait_for_server(timeout_sec=0.2) and self._modes.wait_for_service(timeout_sec=0.2)):
            alive()
            if time.monotonic() > until:
                missing = "execute_task" if not self._tasks.server_is_ready() else "arm/set_mode"
                raise TrialsError(
                    f"{missing} did not appear in namespace {self._node.get_namespace()} within {timeout_s:.0f} s. "
                    "Is the graph up, in this ROS_DOMAIN_ID and namespace?"
                )
        self._greet(until, alive)

    def _greet(self, until: float, alive: Callable[[], None]) -> None:
        """Until execute_task answers: a server that has not discovered its client yet drops the answer, and a goal
        would then run for nobody. To cancel a goal that does not exist does nothing and may be asked again and
        again."""
        greeting = CancelGoal.Request()
        greeting.goal_info.goal_id.uuid = np.frombuffer(uuid.uuid4().bytes, np.uint8)
        while not _answered(self._send(self._greetings.call_async, greeting), RETRY_S):
            alive()
            if time.monotonic() > until:
                raise TrialsError("execute_task is there and does not answer; is inference_node overloaded or stopped?")

    def start(self, instruction: str, timeout_s: float) -> None:
        self._goal, self._result, self._progress = None, None, (0, 0.0)
        goal = ExecuteTask.Goal(instruction=instruction, timeout_s=float(timeout_s))
        handle = self._answer(self._send(self._ask_for, goal), "execute_task")
        if not handle.accepted:
            raise TrialsError(f"execute_task refused “{instruction}”; inference_node says why in the graph's log.")
        self._goal, self._result = handle, self._send(handle.get_result_async)

    def ended(self) -> Ended | None:
        if self._result is None or not self._result.done():
            return None
        answer = self._result.result()
        if answer.status == GoalStatus.STATUS_UNKNOWN:
            return Ended("execute_task knows nothing of this task any more", *self._progress)
        return Ended(answer.result.reason or "no reason given", answer.result.steps, answer.result.seconds)

    def cancel(self) -> None:
        if self._goal is not None and self._result is not None and not self._result.done():
            self._send(self._goal.cancel_goal_async)

    def progress(self) -> tuple[int, float]:
        return self._progress

    def let_go(self) -> None:
        """The arm goes limp (idle), so that it may be moved. Raises TrialsError if the driver refuses."""
        for _ in range(int(ANSWER_S / RETRY_S)):  # asking twice does no harm, a lost answer would end the trials
            future = self._send(self._modes.call_async, SetMode.Request(mode=ArmState.IDLE))
            if _answered(future, RETRY_S):
                break
        answer = self._answer(future, "arm/set_mode")
        if not answer.success:
            raise TrialsError(f"the driver refused to go idle: {answer.message}")

    def picture(self) -> np.ndarray | None:
        """The newest picture of the best topic that gives any, (H, W, 3) uint8 RGB."""
        for topic in self._pictures:
            if (message := self._newest.get(topic)) is not None:
                return to_rgb(message)
        return None

    def close(self) -> None:
        self._participant.close(self._tasks.destroy)

    def _ask_for(self, goal: ExecuteTask.Goal):
        """In the executor: rclpy's own registration of a goal loses an answer that comes while it is made elsewhere."""
        sent = self._participant.executor.create_task(self._tasks.send_goal_async, goal, self._on_feedback)
        return self._answer(sent, "execute_task")

    def _send(self, call: Callable, *arguments):
        """What the call returns, a future; again if the middleware refuses to carry it. Raises TrialsError."""
        for _ in range(_TRIES):
            with delivery.survived(self._node.get_logger()):
                return call(*arguments)
        raise TrialsError("the middleware refuses every request; is this machine out of memory?")

    def _answer(self, future, who: str):
        if not _answered(future, ANSWER_S):
            raise TrialsError(f"{who} did not answer within {ANSWER_S:.0f} s; see the graph's log.")
        return future.result()

    def _keep(self, topic: str, message: Image) -> None:
        self._newest[topic] = message

    def _on_feedback(self, message) -> None:
        self._progress = (message.feedback.steps, message.feedback.seconds)


def _answered(future, timeout_s: float) -> bool:
    """Wait for another thread to bring the answer."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return done.wait(timeout_s)
