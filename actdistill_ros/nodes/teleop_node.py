"""Lets an operator jog the arm with a keyboard, a gamepad, a SpaceMouse, a switch or a leader arm on a serial line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Float32

from actdistill_ros.control import settings
from actdistill_ros.msg import ArmState
from actdistill_ros.nodes import delivery, lifecycle, qos
from actdistill_ros.nodes.operator_topics import BASE, DEADMAN, GRIPPER, TOOL, TWIST
from actdistill_ros.nodes.parameters import Setting, declare, value
from actdistill_ros.nodes.policy_messages import pose_of
from actdistill_ros.nodes.stamps import to_stamp
from actdistill_ros.srv import SetMode
from actdistill_ros.teleop import spacemouse
from actdistill_ros.teleop.gamepad import Gamepad, Mapping
from actdistill_ros.teleop.keyboard import Keyboard
from actdistill_ros.teleop.serial_switch import SerialSwitch
from actdistill_ros.teleop.session import Output, Session
from actdistill_ros.teleop.source import Source, SourceError
from actdistill_ros.teleop.spacemouse import SpaceMouse

SOURCES = ("keyboard", "joy", "spacemouse", "serial")
FRAMES = ("base", "tool")
_MAPPING = Mapping()
SETTINGS = (
    Setting("source", "keyboard", f"what the operator holds: {', '.join(SOURCES)}"),
    Setting("frame", "base", f"frame of the motion: {', '.join(FRAMES)}; some sources switch it themselves"),
    Setting("scale", 0.5, "share of the jog speeds of config/arm.yaml", 0.01, 1.0, changeable=True),
    Setting("rate_hz", 50.0, "how often the device is read [Hz]", 20.0, 200.0),
    Setting("terminal", "/dev/tty", "terminal that the keyboard belongs to (source keyboard)"),
    Setting("serial_port", "", "port of the switch or leader arm, for example /dev/ttyUSB0 (source serial)"),
    Setting("baud", 115200, "its speed [bit/s]", 1200, 4000000),
    Setting("device", "", "input device of the SpaceMouse; empty: the one that is plugged in (source spacemouse)"),
    Setting("joy_axes", list(_MAPPING.axes), 'sticks for along and about x, y, z: "+1" is axis 1, "-1" turned round'),
    Setting("joy_deadman", _MAPPING.deadman, "button that must be held to move", 0, 63),
    Setting("joy_stop", _MAPPING.stop, "button of the emergency stop", 0, 63),
    Setting("joy_open", _MAPPING.open, "button that opens the gripper", 0, 63),
    Setting("joy_close", _MAPPING.close, "button that closes the gripper", 0, 63),
    Setting("joy_tool", _MAPPING.tool, "button for motion in the tool's frame while it is held", 0, 63),
    Setting("config", "", "the driver's limits; empty: the package's own config/arm.yaml"),
)


class TeleopNode(LifecycleNode):
    """Active, it reads its device and says on teleop/… what the operator wants; inactive, it is silent."""

    def __init__(self, **kwargs) -> None:
        super().__init__("teleop_node", **kwargs)
        declare(self, *SETTINGS)
        self._session: Session | None = None
        self._gamepad: Gamepad | None = None
        self._parts: list = []
        self._twist = self.create_publisher(TwistStamped, TWIST, qos.STATE)
        self._deadman = self.create_publisher(Bool, DEADMAN, qos.STATE)
        self._gripper = self.create_publisher(Float32, GRIPPER, qos.STATE)
        self._set_mode = self.create_client(SetMode, "arm/set_mode")
        self.add_on_set_parameters_callback(self._on_parameters)

    @lifecycle.says_why
    def on_configure(self, state) -> TransitionCallbackReturn:
        for name, known in (("source", SOURCES), ("frame", FRAMES)):
            if value(self, name) not in known:
                raise SourceError(f"parameter {name} is {value(self, name)!r}, expected one of {', '.join(known)}")
        config = value(self, "config")
        limits = settings.load(Path(config) if config else None)
        self._jog_speed = np.repeat([limits.jog_speed_m_s, limits.jog_turn_rad_s], 3)
        if value(self, "source") == "joy":
            names = ("deadman", "stop", "open", "close", "tool")
            buttons = {name: value(self, f"joy_{name}") for name in names}
            self._gamepad = Gamepad(Mapping(tuple(value(self, "joy_axes")), **buttons))
        return super().on_configure(state)

    @lifecycle.says_why
    def on_activate(self, state) -> TransitionCallbackReturn:
        self._session = Session(self._open, self._jog_speed, value(self, "frame") == "tool", time.time())
        self._session.scale = value(self, "scale")
        self._parts = [
            (self.destroy_timer, self.create_timer(1.0 / value(self, "rate_hz"), self._on_time)),
            (self.destroy_subscription, self.create_subscription(ArmState, "arm/state", self._on_state, qos.STATE)),
        ]
        if self._gamepad:
            self._parts.append(
                (self.destroy_subscription, self.create_subscription(Joy, "joy", self._on_joy, qos.STATE))
            )
        self.get_logger().info(f"teleop by {value(self, 'source')}: hold the dead-man to move")
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self._leave()
        return super().on_deactivate(state)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._leave()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        self._leave()
        super().destroy_node()

    def _open(self, now_s: float) -> Source:
        source = value(self, "source")
        if source == "keyboard":
            return Keyboard(Path(value(self, "terminal")))
        if source == "serial":
            return SerialSwitch(value(self, "serial_port"), value(self, "baud"), now_s)
        if source == "spacemouse":
            return SpaceMouse(Path(value(self, "device")) if value(self, "device") else spacemouse.find())
        return self._gamepad

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        for destroy, part in self._parts:
            destroy(part)
        session.close()
        if self.context.ok():
            with delivery.survived(self.get_logger()):
                self._deadman.publish(Bool(data=False))

    def _on_parameters(self, changes) -> SetParametersResult:
        for change in changes:
            if change.name == "scale" and self._session:
                self._session.scale = change.value
        return SetParametersResult(successful=True)

    def _on_state(self, message: ArmState) -> None:
        if not self._session:
            return
        try:
            self._session.see(pose_of(message.tcp_commanded), time.time())
        except ValueError as error:
            self._session.see(None, time.time())
            self.get_logger().error(f"arm/state: {error}", throttle_duration_sec=5.0)

    def _on_joy(self, message: Joy) -> None:
        self._gamepad.hear(message.axes, message.buttons, time.time())

    def _on_time(self) -> None:
        output = self._session.step(time.time())
        for note in output.notes:
            self.get_logger().warning(note)
        if output.stop:  # first: what the middleware refuses ends the callback
            self.get_logger().error("emergency stop", throttle_duration_sec=1.0)
            self._set_mode.call_async(SetMode.Request(mode=ArmState.ESTOP)).add_done_callback(self._on_stopped)
        self._say(output)

    def _say(self, output: Output) -> None:
        if output.deadman is not None:
            self._deadman.publish(Bool(data=output.deadman))
        if output.twist is not None:
            message = TwistStamped()
            message.header.stamp, message.header.frame_id = to_stamp(time.time()), TOOL if output.tool else BASE
            twist, motion = output.twist.tolist(), message.twist
            motion.linear.x, motion.linear.y, motion.linear.z = twist[:3]
            motion.angular.x, motion.angular.y, motion.angular.z = twist[3:]
            self._twist.publish(message)
        if output.gripper is not None:
            self._gripper.publish(Float32(data=output.gripper))

    def _on_stopped(self, call) -> None:
        if self._session and call.result() and call.result().success:
            self._session.stopped()


def main(args: list[str] | None = None) -> int:
    return lifecycle.run(TeleopNode, args)


if __name__ == "__main__":
    sys.exit(main())
