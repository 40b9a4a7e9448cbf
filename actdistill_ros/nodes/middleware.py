"""Which middleware carries the topics."""

from __future__ import annotations

import rclpy


def name() -> str:
    """Identifier of the ROS middleware implementation. Raises ImportError where ROS is missing."""
    return rclpy.get_rmw_implementation_identifier()
