"""Puts the arm on ROS: chunks and mode requests in, state, joints, frames and diagnostics out."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.hardware import HARDWARE, make
from actdistill_ros.control import settings
from actdistill_ros.control.arm_models import MODELS
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.modes import LIMP, Mode
from actdistill_ros.msg import ActionChunk, ArmState
from actdistill_ros.nodes import arm_diagnostics, arm_messages, delivery, lifecycle, punctual, qos
from actdistill_ros.nodes.homing import Homing
from actdistill_ros.nodes.operator_topics import OperatorTopics
from actdistill_ros.nodes.parameters import Setting, declare, value
from actdistill_ros.nodes.stopping import Stopping
from actdistill_ros.srv import SetMode

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # the ROS wheels have none
    TFMessage = None

DISCOVERY_S = 0.3
"""How long another driver in this namespace may take to be seen; 0.15 s were measured on one machine."""
RETRY_S = 0.2


def parameters(limits: settings.DriverSettings) -> tuple[Setting, ...]:
    """Parameters of the node; what is not here stands in config/arm.yaml."""
    return (
        Setting("model", limits.model, f"model of the arm: {', '.join(MODELS)}"),
        Setting("hardware", "sim", f"which arm: {', '.join(HARDWARE)}"),
        Setting("sim_endpoint", "", "folder of the simulated world's sockets (hardware sim, sdk_sim)"),
        Setting("can_interface", "can0", "CAN interface of the arm (hardware real, sdk_sim)"),
        Setting("connect_timeout_s", 5.0, "how long to wait for the arm at configure [s]", 0.0, 600.0),
        Setting("rate_hz", limits.rate_hz, "joint commands per second [Hz]", limits.state_hz, 1000.0),
        Setting("speed_scale", limits.speed_scale, "share of the policy's own speed", 0.01, 1.0, changeable=True),
        Setting("publish_tf", _nobody_else_publishes_tf(), "publish /tf; true where robot_state_publisher is missing"),
    )


class ArmDriverNode(LifecycleNode):
    """Configure reaches the arm and reports its state, idle; activate lets it be commanded; deactivate holds, then
    damps."""

    def __init__(self, **kwargs) -> None:
        self._loop: DriverLoop | None = None
        self._active = False
        self._parts: list = []
        super().__init__("arm_driver_node", **kwargs)
        declare(
            self, Setting("config", "", "limits, rates, timeouts, workspace; empty: the package's own config/arm.yaml")
        )
        config = value(self, "config")
        self._limits = settings.load(Path(config) if config else None)
        declare(self, *parameters(self._limits))
        self.add_on_set_parameters_callback(self._on_parameters)

    # -- lifecycle
    @lifecycle.says_why
    def on_configure(self, state) -> TransitionCallbackReturn:
        arm = make(*(value(self, name) for name in ("hardware", "sim_endpoint", "can_interface", "model")))
        self._refuse_a_second_driver()
        limits = replace(self._limits, **{name: value(self, name) for name in ("rate_hz", "speed_scale", "model")})
        self._arm, loop = limits.arm, DriverLoop(limits, arm)
        self._start(loop)
        self._loop = loop
        try:
            self._connect_topics()
        except Exception:
            self._close()
            raise
        self.get_logger().info(f"{self._arm.name} reached at {limits.rate_hz:g} Hz; idle until arm/set_mode")
        return super().on_configure(state)

    def on_activate(self, state) -> TransitionCallbackReturn:
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self._active = False
        self._loop.rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        if self._loop:
            self._loop.rest()
            with delivery.survived(self.get_logger()):
                self._publish_state()
        self._close()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        self._close()
        super().destroy_node()

    def _refuse_a_second_driver(self) -> None:
        """Two drivers on one arm fight over it; the one that came first keeps it."""
        until = time.monotonic() + DISCOVERY_S
        while True:
            if others := self.get_publishers_info_by_topic(self.resolve_topic_name("arm/state")):
                other = f"{others[0].node_namespace.rstrip('/')}/{others[0].node_name}"
                raise ArmError(
                    f"{other} publishes {self.resolve_topic_name('arm/state')} already: one driver per namespace. Stop "
                    "it (a killed one is forgotten after 20 s at most) or start this one with another namespace"
                )
            if time.monotonic() > until:
                return
            time.sleep(0.05)

    def _start(self, loop: DriverLoop) -> None:
        """Wait for an arm that is only just coming up."""
        until = time.monotonic() + value(self, "connect_timeout_s")
        while True:
            try:
                return loop.start()
            except ArmError:
                if time.monotonic() >= until:
                    raise
            time.sleep(RETRY_S)

    def _connect_topics(self) -> None:
        self._state = self.create_publisher(ArmState, "arm/state", qos.STATE)
        self._joints = self.create_publisher(JointState, "joint_states", qos.STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        self._description = self.create_publisher(String, "robot_description", qos.LATCHED)
        self._description.publish(String(data=settings.share_file(self._arm.urdf).read_text()))
        self._tf = self._tf_publisher()
        operator = OperatorTopics(self, self._loop, lambda: self._active)
        self._parts = [
            (OperatorTopics.destroy, operator),
            (Homing.destroy, Homing(self, self._loop, lambda: self._active, self._arm.home_rad)),
            (Stopping.destroy, Stopping(self, self._loop)),
            (self.destroy_timer, self.create_timer(1.0 / self._limits.state_hz, self._publish_state)),
            (self.destroy_timer, self.create_timer(1.0, self._publish_diagnostics)),
            (
                self.destroy_subscription,
                self.create_subscription(ActionChunk, "policy/chunk", self._on_chunk, qos.STATE),
            ),
            (self.destroy_service, self.create_service(SetMode, "arm/set_mode", self._on_set_mode)),
            *(
                (self.destroy_publisher, p)
                for p in (self._state, self._joints, self._diagnostics, self._description, self._tf)
                if p
            ),
        ]

    def _tf_publisher(self):
        if not value(self, "publish_tf"):
            return None
        if TFMessage is None:
            raise ArmError("publish_tf is true, but this machine has no tf2_msgs: install it or set it to false")
        return self.create_publisher(TFMessage, "/tf", qos.STATE)

    def _close(self) -> None:
        """The arm first, then what talks about it."""
        loop, self._loop = self._loop, None
        if loop:
            loop.stop()
        for destroy, part in self._parts:
            destroy(part)
        self._parts = []

    # -- in
    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            chunk = arm_messages.chunk_from_message(message)
        except ValueError as error:
            why = self._loop.refuse(str(error))
        else:
            why = self._loop.offer(chunk) if self._active else "chunk ignored: the driver is not active"
        if why:
            self.get_logger().warning(why, throttle_duration_sec=1.0)

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        try:
            mode = Mode(request.mode)
        except ValueError:
            known = ", ".join(f"{mode.value} {mode.name}" for mode in Mode)
            response.message = f"mode {request.mode} is unknown; known are {known}"
            return response
        if not self._active and mode not in LIMP:
            response.message = f"the driver is not active: {mode.name} needs an active lifecycle node"
            return response
        why = self._loop.set_mode(mode, request.reset)
        response.success, response.message = not why, why or f"mode is {mode.name}"
        return response

    def _on_parameters(self, changes) -> SetParametersResult:
        for change in changes:
            if change.name == "speed_scale" and self._loop:
                self._loop.set_speed_scale(change.value)
        return SetParametersResult(successful=True)

    # -- out
    def _publish_state(self) -> None:
        if not self._loop:  # the timer was due when the node was shut down
            return
        state = self._loop.state()
        self._state.publish(arm_messages.arm_state_message(state))
        self._loop.told(state)
        for event in state.events:
            self.get_logger().info(event)
        self._joints.publish(arm_messages.joint_state_message(state.feedback))
        if self._tf:
            self._tf.publish(TFMessage(transforms=arm_messages.transforms(state.feedback, self._arm.chain)))

    def _publish_diagnostics(self) -> None:
        if not self._loop:
            return
        about = self.get_fully_qualified_name(), value(self, "hardware"), time.time(), self._limits.feedback_timeout_s
        self._diagnostics.publish(arm_diagnostics.diagnostics_message(self._loop.state(), *about))


def _nobody_else_publishes_tf() -> bool:
    if TFMessage is None:
        return False
    try:
        get_package_prefix("robot_state_publisher")
    except (PackageNotFoundError, LookupError):
        return True
    return False


def main(args: list[str] | None = None) -> int:
    return lifecycle.run(ArmDriverNode, args, punctual.begin)


if __name__ == "__main__":
    sys.exit(main())
