"""What a node's process does for a thread in it that must be punctual."""

from __future__ import annotations

from rclpy.node import Node

from actdistill_ros import priority


def begin(node: Node) -> None:
    """Called in the executor's thread: it must not keep the punctual one from the interpreter. Says once what lacks."""
    priority.steady()
    priority.serve()
    if why := priority.refusal():
        node.get_logger().info(why)
