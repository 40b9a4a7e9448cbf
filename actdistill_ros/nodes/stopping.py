"""Services arm/stop and policy/stop: an arm that is under power comes to rest, and a limp one stays limp."""

from __future__ import annotations

from functools import partial

from rclpy.node import Node
from std_srvs.srv import Trigger

from actdistill_ros.control.loop import DriverLoop

STOP, POLICY_STOP = "arm/stop", "policy/stop"
"""For whoever takes the graph down or wants everything to rest; for a policy that ends its task, whose word counts only
while it has the arm: an operator who took it meanwhile keeps it."""


class Stopping:
    """Both services. Unlike mode HOLD of arm/set_mode they never bring power on, so they may come late."""

    def __init__(self, node: Node, loop: DriverLoop) -> None:
        self._node, self._loop = node, loop
        self._services = [
            node.create_service(Trigger, name, partial(self._on_call, source))
            for name, source in ((STOP, ""), (POLICY_STOP, "policy"))
        ]

    def destroy(self) -> None:
        for service in self._services:
            self._node.destroy_service(service)

    def _on_call(self, source: str, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._loop.halt(source)
        response.success = not response.message
        return response
