"""Service arm/home: a slow trajectory to where a task begins, judged and stoppable as any other; the gripper stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from std_srvs.srv import Trigger

from actdistill_ros.control.loop import DriverLoop
from actdistill_ros.control.trajectory import Trajectory

HOME = "arm/home"
SPEED_RAD_S = 0.3
"""Of the joint that has the longest way."""
LEAST_S = 1.0


class Homing:
    """The service; it answers when the way is found good and the arm is about to move, or why it is not."""

    def __init__(self, node: Node, loop: DriverLoop, active: Callable[[], bool], home_rad: np.ndarray) -> None:
        """home_rad: (6,) of the arm's model."""
        self._node, self._loop, self._active, self._home_rad = node, loop, active, home_rad
        self._service = node.create_service(Trigger, HOME, self._on_call)

    def destroy(self) -> None:
        self._node.destroy_service(self._service)

    def _on_call(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._go() if self._active() else "the driver is not active"
        response.success = not response.message
        return response

    def _go(self) -> str:
        way = np.abs(self._home_rad - self._loop.state().feedback.position_rad).max()
        return self._loop.follow(Trajectory(self._home_rad[None], np.array([max(LEAST_S, way / SPEED_RAD_S)])))
