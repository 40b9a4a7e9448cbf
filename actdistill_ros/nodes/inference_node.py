"""Runs the policy: looks when the last action is done, infers, sends the next chunk; one task at a time."""

from __future__ import annotations

import math
import sys
import time
from functools import partial
from pathlib import Path

import cv2
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from actdistill_ros.camera.source import Frame
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import Observation
from actdistill_ros.control.step_gate import StepGate
from actdistill_ros.control.task import Phase, Task, TaskRefused, TaskReport, blame, timeout
from actdistill_ros.msg import ActionChunk, ArmState, Routing
from actdistill_ros.nodes import delivery, lifecycle, qos
from actdistill_ros.nodes.arm_messages import chunk_message
from actdistill_ros.nodes.image_messages import to_rgb
from actdistill_ros.nodes.inference_settings import SETTINGS
from actdistill_ros.nodes.parameters import attempt, declare, value
from actdistill_ros.nodes.policy_messages import report_of, routing_message
from actdistill_ros.nodes.stamps import capture_seconds
from actdistill_ros.nodes.stopping import POLICY_STOP
from actdistill_ros.nodes.task_server import TaskServer
from actdistill_ros.policy import loading
from actdistill_ros.policy.runtime import StepResult
from actdistill_ros.policy.threads import Step, use_threads, worker
from actdistill_ros.srv import SetMode

_WATCH_S = 0.05


class InferenceNode(LifecycleNode):
    """Everything but the policy's step happens in the executor's thread; the step has a worker of its own."""

    def __init__(self, **kwargs) -> None:
        super().__init__("inference_node", **kwargs)
        declare(self, *SETTINGS)
        self._active = False
        self._policy: loading.Runtime | None = None
        self._gate: StepGate | None = None
        self._images: list = []
        self._task = Task(time.time)
        self._worker = worker(value(self, "nice"))
        self._step: Step | None = None
        self._stepped = self.create_guard_condition(self._on_stepped)
        self._chunks = self.create_publisher(ActionChunk, "policy/chunk", qos.STATE)
        self._routing = self.create_publisher(Routing, "policy/routing", qos.STATE)
        self._set_mode = self.create_client(SetMode, "arm/set_mode")
        self._stop = self.create_client(Trigger, POLICY_STOP)
        self.create_subscription(ArmState, "arm/state", self._on_state, qos.STATE)
        self._server = TaskServer(self, self)
        self.create_timer(_WATCH_S, self._watch)
        self.add_on_set_parameters_callback(self._on_parameters)

    # -- lifecycle
    @lifecycle.says_why
    def on_configure(self, state) -> TransitionCallbackReturn:
        if not value(self, "checkpoint"):
            raise ContractError("parameter checkpoint is empty, expected the folder of a policy, models/… for example")
        use_threads(value(self, "threads"))
        self._policy = loading.load(Path(value(self, "checkpoint")), value(self, "device"))
        self._policy.set_budget(value(self, "budget") or None)
        cameras, present = self._policy.contract.cameras, value(self, "cameras")
        if lacking := [camera.name for camera in cameras if camera.name not in present]:
            raise ContractError(
                f"checkpoint {value(self, 'checkpoint')} needs camera {', '.join(lacking)}; this graph has "
                f"{', '.join(present)}. Add it to parameter cameras of camera_node and of inference_node."
            )
        self._gate = StepGate(cameras, value(self, "max_frame_age_s"), time.time)
        for camera in cameras:
            topic, hear = f"camera/{camera.name}/image_raw", partial(self._on_image, camera.name)
            self._images.append(self.create_subscription(Image, topic, hear, qos.NEWEST_IMAGE))
        self.get_logger().info(f"{self._policy.checkpoint_id} on {value(self, 'device')}")
        return super().on_configure(state)

    @lifecycle.says_why
    def on_activate(self, state) -> TransitionCallbackReturn:
        self._active = True
        self._begin_from_parameter(value(self, "instruction"))
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self._leave()
        return super().on_deactivate(state)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        for subscription in self._images:
            self.destroy_subscription(subscription)
        self._images, self._policy, self._gate = [], None, None
        return super().on_cleanup(state)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._leave()
        return super().on_shutdown(state)

    def _leave(self) -> None:
        self._active = False
        self.end("inference_node was deactivated")

    def destroy_node(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._server.destroy()
        super().destroy_node()

    # -- tasks (see task_server.Tasks)
    def begin(self, instruction: str, timeout_s: float) -> str:
        if not self._active:
            raise TaskRefused("inference_node is not active; configure and activate it first")
        return self._begin(instruction, timeout(timeout_s, value(self, "timeout_s")))

    def _begin(self, instruction: str, timeout_s: float) -> str:
        self._task.begin(instruction, timeout_s)
        self._worker.submit(self._policy.reset)  # after a step of the task before, which may still run
        self.get_logger().info(f"task: {self._task.instruction}")
        closest = self._policy.unseen(self._task.instruction)
        return f"never seen in training: {instruction!r}; closest known: {'; '.join(closest)}" if closest else ""

    def end(self, reason: str) -> None:
        if self._task.phase is Phase.IDLE:
            return
        self._gate.stop()
        moved = self._task.phase is not Phase.WAITING
        self._server.ended(self._task.end(reason))
        self.get_logger().info(f"task ended: {reason}")
        if moved:
            self._hold()

    def report(self) -> TaskReport:
        return self._task.report()

    def _begin_from_parameter(self, instruction: str) -> None:
        if instruction and (warning := self._begin(instruction, math.inf)):
            self.get_logger().warning(warning)

    def _on_parameters(self, parameters) -> SetParametersResult:
        """A new instruction replaces the running task; an empty one ends it. A budget holds from the next step on."""
        result = SetParametersResult(successful=True)
        for parameter in parameters:
            if parameter.name == "budget" and self._policy:
                result = attempt(partial(self._policy.set_budget, parameter.value or None))
            if parameter.name == "instruction" and self._active:
                self.end("another instruction was given")
                self._begin_from_parameter(parameter.value)
        return result

    def _watch(self) -> None:
        """Time passes: start a task once all is there, end it when it must end."""
        if self._task.phase is Phase.IDLE:
            return
        self._server.poll()
        missing = self._gate.missing()
        if self._task.phase is Phase.RUNNING and (problem := self._gate.problem()):
            self.end(problem)
        elif overdue := self._task.overdue(missing):
            self.end(overdue)
        elif missing.startswith("contract"):
            self.end(missing)
        elif self._task.may_ask(missing) and self._set_mode.service_is_ready():
            self._task.asked()
            call = self._set_mode.call_async(SetMode.Request(mode=ArmState.POLICY))
            call.add_done_callback(partial(self._on_entered, self._task.number))

    def _on_entered(self, number: int, call) -> None:
        if number != self._task.number or self._task.phase is not Phase.ENTERING:
            if self._task.phase is Phase.IDLE:
                self._hold()
        elif call.result().success:
            self._task.entered()
            self._gate.start()
        else:
            self.end(f"arm: {call.result().message}")

    def _hold(self) -> None:
        """Ask the arm to hold; the driver knows whether it still follows the policy or somebody came between."""
        self._task.holding()
        with delivery.survived(self.get_logger()):  # unheard it rests as well, when the chunk is done
            self._stop.call_async(Trigger.Request()).add_done_callback(lambda _: self._task.held())

    # -- steps
    def _on_image(self, name: str, message: Image) -> None:
        try:
            stamp_s = capture_seconds(message.header.stamp, time.time(), f"frame of camera {name}")
            self._gate.see(name, Frame(to_rgb(message), stamp_s))
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
        self._advance()

    def _on_state(self, message: ArmState) -> None:
        if self._gate is None:
            return
        try:
            self._gate.hear(report_of(message))
        except ValueError as error:
            self.get_logger().error(f"arm/state: {error}", throttle_duration_sec=5.0)
        self._advance()

    def _advance(self) -> None:
        if self._step is None and (observation := self._gate.take(self._task.instruction)):
            if self._gate.refused:
                self._worker.submit(self._policy.reset)  # what it said last was not done
            result = self._worker.submit(self._policy.step, observation)
            self._step = Step(self._task.number, observation, result)
            result.add_done_callback(lambda _: self._stepped.trigger())

    def _on_stepped(self) -> None:
        """The worker is done: send its chunk, unless the task it was for is over."""
        step, self._step = self._step, None
        if step is None or self._task.phase is not Phase.RUNNING or step.task != self._task.number:
            return
        if error := step.result.exception():
            self.end(blame(error))
        else:
            self._send(step.result.result(), step.observation)

    def _send(self, result: StepResult, observation: Observation) -> None:
        self._gate.sent(result.chunk.stamp_s)  # before: a chunk that the middleware refused counts as one that was lost
        self._chunks.publish(chunk_message(result.chunk))
        self._task.stepped()
        latency_ms = {**result.latency_ms, "capture_to_chunk": (time.time() - observation.stamp_s) * 1e3}
        routing = routing_message(observation.stamp_s, result.gates, result.executed, result.budget, latency_ms)
        self._routing.publish(routing)
        self._server.stepped(self._task.report(), routing.compute_share, latency_ms["step"], self._gate.report.reason)


def main(args: list[str] | None = None) -> int:
    cv2.setNumThreads(1)  # images are small and the cores are shared: threads would wait longer than they work
    return lifecycle.run(InferenceNode, args)


if __name__ == "__main__":
    sys.exit(main())
