"""A node for a process that is none itself: in a ROS context of its own, spun by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from actdistill_ros.nodes import delivery

_END_S = 1.0


class Participant:
    """Make what the node has, then `start`; signals are left to the process."""

    def __init__(self, name: str, namespace: str = "/", domain_id: int | None = None) -> None:
        """`domain_id` None: that of the environment. Raises RuntimeError if ROS cannot be reached."""
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, namespace=namespace, context=self._context, start_parameter_services=False)
        self.executor = SingleThreadedExecutor(context=self._context)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def start(self) -> None:
        self.executor.add_node(self.node)
        self._thread.start()

    def close(self, release: Callable[[], None] = lambda: None) -> None:
        """From another thread than the callbacks'. release: called before the node is destroyed."""
        self._closing = True
        self.executor.shutdown(timeout_sec=_END_S)
        self._thread.join(_END_S)
        release()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        self._context.destroy()

    def _spin(self) -> None:
        try:
            delivery.spin(self.executor, self.node.get_logger(), lambda: self._closing)
        except ExternalShutdownException:
            pass
        except Exception:
            if not self._closing:  # the end pulls handles from under a callback that still runs
                raise
