"""The doors through which tasks come in: the action execute_task and its twins for tools that call no actions."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from std_srvs.srv import Trigger

from actdistill_ros.action import ExecuteTask
from actdistill_ros.control.task import CANCELLED, TIMEOUT, TaskRefused, TaskReport
from actdistill_ros.srv import StartTask, TaskStatus


class Tasks(Protocol):
    """Who runs the tasks; called in the executor's thread."""

    def begin(self, instruction: str, timeout_s: float) -> str:
        """Start a task (timeout 0: the default) and return a warning or nothing. Raises TaskRefused."""

    def end(self, reason: str) -> None:
        """End the running task, if there is one; `TaskServer.ended` is called with the report."""

    def report(self) -> TaskReport:
        """How the task started last stands."""


class TaskServer:
    """One action server and three services; a goal and a service call are the same task, whoever asks first.

    A goal is not executed by a callback that waits: it stays accepted while the task runs and is executed, which only
    hands over the result, when the task has ended. No executor of any ROS version has to keep a waiting callback.
    """

    def __init__(self, node: Node, tasks: Tasks) -> None:
        self._tasks, self._log = tasks, node.get_logger()
        self._goal = None
        self._server = ActionServer(
            node,
            ExecuteTask,
            "execute_task",
            execute_callback=lambda goal: None,  # each goal brings its own when it has ended
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel_goal,
        )
        self._services = [
            node.create_service(StartTask, "start_task", self._on_start),
            node.create_service(Trigger, "cancel_task", self._on_cancel),
            node.create_service(TaskStatus, "task_status", self._on_status),
        ]

    def stepped(self, report: TaskReport, compute_share: float, latency_ms: float, arm_reason: str) -> None:
        """Tell whoever sent the goal how far it is."""
        if self._goal is not None:
            self._goal.publish_feedback(
                ExecuteTask.Feedback(
                    steps=report.steps,
                    seconds=report.seconds,
                    compute_share=compute_share,
                    latency_ms=latency_ms,
                    arm_reason=arm_reason,
                )
            )

    def ended(self, report: TaskReport) -> None:
        """The running task has ended: its goal gets its result."""
        goal, self._goal = self._goal, None
        if goal is not None:
            goal.execute(partial(self._result, report))

    def destroy(self) -> None:
        self._server.destroy()

    def _on_goal(self, request: ExecuteTask.Goal) -> GoalResponse:
        try:
            if warning := self._tasks.begin(request.instruction, request.timeout_s):
                self._log.warning(warning)
        except TaskRefused as refusal:
            self._log.error(f"execute_task refused: {refusal}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, goal) -> None:
        self._goal = goal
        if not self._tasks.report().running:
            self.ended(self._tasks.report())

    def _on_cancel_goal(self, goal) -> CancelResponse:
        # The goal becomes "canceling" when this returns; only then may it be executed.
        return CancelResponse.ACCEPT if goal is self._goal else CancelResponse.REJECT

    def poll(self) -> None:
        """Called regularly: end the task whose goal is being cancelled."""
        if self._goal is not None and self._goal.is_cancel_requested:
            self._tasks.end(CANCELLED)

    def _result(self, report: TaskReport, goal) -> ExecuteTask.Result:
        if goal.is_cancel_requested:
            goal.canceled()
        elif report.reason == TIMEOUT:
            goal.succeed()  # the policy ran as long as it was asked to; what it achieved is unjudged
        else:
            goal.abort()
        return ExecuteTask.Result(
            verdict=report.verdict, reason=report.reason, steps=report.steps, seconds=report.seconds
        )

    def _on_start(self, request: StartTask.Request, response: StartTask.Response) -> StartTask.Response:
        try:
            response.message = self._tasks.begin(request.instruction, request.timeout_s)
            response.success = True
        except TaskRefused as refusal:
            response.message = str(refusal)
        return response

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._tasks.report().running
        response.message = "" if response.success else "no task is running"
        self._tasks.end(CANCELLED)
        return response

    def _on_status(self, request: TaskStatus.Request, response: TaskStatus.Response) -> TaskStatus.Response:
        report = self._tasks.report()
        response.running, response.instruction = report.running, report.instruction
        response.verdict, response.reason = report.verdict, report.reason
        response.steps, response.seconds = report.steps, report.seconds
        return response
