"""Where an operator and tools command the arm driver: teleop/…, arm/joint_trajectory, arm/gripper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from std_msgs.msg import Bool, Float32
from trajectory_msgs.msg import JointTrajectory

from actdistill_ros.control.limits import JOINT_NAMES
from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.operator import Twist
from actdistill_ros.control.trajectory import Trajectory
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.stamps import to_seconds

TWIST, DEADMAN, GRIPPER = "teleop/twist", "teleop/deadman", "teleop/gripper"
TRAJECTORY, ARM_GRIPPER = "arm/joint_trajectory", "arm/gripper"
BASE, TOOL = "base_link", "eef_link"


class OperatorTopics:
    """Subscriptions that turn messages into requests to the loop; none while the driver node is not active."""

    def __init__(self, node: Node, loop: DriverLoop, active: Callable[[], bool]) -> None:
        self._node, self._loop, self._active = node, loop, active
        self._deadman_topic = node.resolve_topic_name(DEADMAN)
        self._subscriptions = [
            node.create_subscription(kind, topic, hear, qos.STATE)
            for kind, topic, hear in (
                (TwistStamped, TWIST, self._on_twist),
                (Bool, DEADMAN, self._on_deadman),
                (Float32, GRIPPER, self._on_gripper),
                (Float32, ARM_GRIPPER, self._on_gripper),
                (JointTrajectory, TRAJECTORY, self._on_trajectory),
            )
        ]

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_twist(self, message: TwistStamped) -> None:
        if not self._active():
            return
        try:
            twist = twist_from_message(message)
        except ValueError as error:
            self._warn(self._loop.refuse_teleop(str(error)))
        else:
            self._warn(self._loop.jog(twist))

    def _on_deadman(self, message: Bool) -> None:
        # Of two switches the one that is not held would let go of the arm every time the other one has it.
        if message.data and (count := self._node.count_publishers(self._deadman_topic)) > 1:
            why = (
                f"{count} nodes publish {DEADMAN}, expected one: stop the others (a killed one is forgotten after 20 s "
                "at most)"
            )
            return self._warn(self._loop.refuse_teleop(why))
        # Of an inactive driver only the release counts: a switch held before the activation must be let go first.
        if self._active() or not message.data:
            self._loop.deadman(message.data)

    def _on_gripper(self, message: Float32) -> None:
        if self._active():
            self._warn(self._loop.grip(message.data))

    def _on_trajectory(self, message: JointTrajectory) -> None:
        if why := self._follow(message):
            self._node.get_logger().warning(why)

    def _follow(self, message: JointTrajectory) -> str:
        if not self._active():
            return "trajectory ignored: the driver is not active"
        if not message.points:  # what controllers of other arms take for "stop"
            return self._loop.halt()
        try:
            return self._loop.follow(trajectory_from_message(message))
        except ValueError as error:
            return f"trajectory refused: {error}"

    def _warn(self, why: str) -> None:
        """Of what comes many times a second."""
        if why:
            self._node.get_logger().warning(why, throttle_duration_sec=1.0)


def twist_from_message(message: TwistStamped) -> Twist:
    """Raises ValueError if it is given in another frame; everything else is the driver's to judge."""
    frame = message.header.frame_id
    if frame not in (BASE, TOOL):
        raise ValueError(f"frame_id is {frame!r}, expected {BASE!r} or {TOOL!r}: no other frame is converted")
    linear, angular = message.twist.linear, message.twist.angular
    return Twist(
        np.array([linear.x, linear.y, linear.z]),
        np.array([angular.x, angular.y, angular.z]),
        frame == TOOL,
        to_seconds(message.header.stamp),
    )


def trajectory_from_message(message: JointTrajectory) -> Trajectory:
    """The six joints in this package's order; further joints are left out. Raises ValueError if one is missing."""
    names = list(message.joint_names)
    if lacking := [name for name in JOINT_NAMES if name not in names]:
        raise ValueError(f"joint_names lack {', '.join(lacking)}; found {', '.join(names) or 'none'}")
    order = [names.index(name) for name in JOINT_NAMES]
    for number, point in enumerate(message.points, 1):
        if len(point.positions) != len(names):
            raise ValueError(f"point {number} has {len(point.positions)} positions for {len(names)} joint_names")
    positions = np.array([np.array(point.positions)[order] for point in message.points])
    durations = [point.time_from_start for point in message.points]
    times = np.array([duration.sec + duration.nanosec * 1e-9 for duration in durations])
    return Trajectory(positions, times, to_seconds(message.header.stamp))
