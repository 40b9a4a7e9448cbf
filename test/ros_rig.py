"""Real rclpy for tests: one private context and one spinning executor a test; waiting is for events, never for time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import rclpy
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from actdistill_ros.nodes import delivery

WAIT_S = 30.0


class Ros:
    """Nodes of one test, spun in a thread. refusals: what the middleware refused to carry, in words."""

    def __init__(self, domain_id: int) -> None:
        self.context, self.domain_id = Context(), domain_id
        rclpy.init(args=[], context=self.context, domain_id=domain_id)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list = []
        self.refusals: list[str] = []
        self._crash: BaseException | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            log = SimpleNamespace(warning=lambda words, **_: self.refusals.append(words))
            delivery.spin(self.executor, log, lambda: self._closing)
        except ExternalShutdownException:
            pass
        except BaseException as error:
            if not self._closing:  # the end pulls handles from under a callback that still runs
                self._crash = error

    def run(self, call: Callable[..., object], *args):
        """What the call returns, made by the executor as in a process of its own: rclpy has no lock between callbacks
        and a thread that destroys, shuts down or sends a goal beside them."""
        task = self.executor.create_task(call, *args)
        self.until(task.done, f"the executor to run {call}")
        return task.result()

    def make(self, node_class: type, **parameters):
        """A node of the class with these parameters (`__` stands for a dot), not in the executor yet."""
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        node = node_class(context=self.context, parameter_overrides=overrides)
        self._nodes.append(node)
        return node

    def spin(self, node):
        self.executor.add_node(node)
        return node

    def peer(self, name: str = "peer", spun: bool = True):
        """A plain node that plays the other side. spun=False: not before `spin` is called with it, as an action
        client needs: rclpy shows it to the executor before it is complete."""
        node = rclpy.create_node(name, context=self.context)
        self._nodes.append(node)
        return self.spin(node) if spun else node

    def hear(self, node, message_type: type, topic: str, profile=10) -> list:
        """Messages of a topic as they arrive; wait for them with `until`."""
        heard: list = []

        def listen(message) -> None:
            with self._changed:
                heard.append(message)
                self._changed.notify_all()

        node.create_subscription(message_type, topic, listen, profile)
        return heard

    def hear_log(self, peer, node) -> list[Log]:
        """What the node logs from now on, in this process or not: what capfd reads while others write it may lose."""
        heard, name = self.hear(peer, Log, "/rosout", 100), node.get_logger().name

        def asked() -> bool:
            node.get_logger().info("is this heard?")
            return any(line.name == name for line in heard)

        self.until(asked, f"the log of {name}")
        return heard

    def connect(self, publisher, node) -> None:
        """Wait until publisher and the node's subscription know each other: what only one side knows of is lost."""
        topic = publisher.topic_name
        ear = next(one for one in node.subscriptions if one.topic_name == topic)
        mouths = [one for of in self._nodes for one in of.publishers if one.topic_name == topic]
        self.until(
            lambda: publisher.get_subscription_count() and ear.get_publisher_count() >= len(mouths), f"ears on {topic}"
        )

    def until(self, condition: Callable[[], object], what: str | Callable[[], str]):
        """The condition's value once it is true; looked at whenever something was heard, and every 20 ms.

        what: a callable is asked when the wait was in vain."""
        with self._changed:
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:
                if result := condition():
                    return result
                if self._crash:
                    raise self._crash
                self._changed.wait(0.02)
        pytest.fail(f"waited {WAIT_S:g} s for {what() if callable(what) else what}")

    def close(self) -> None:
        """Raises what a callback raised."""
        self._closing = True
        self.executor.shutdown(timeout_sec=2.0)
        self._thread.join(2.0)
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)
        self.context.destroy()
        if self._crash:
            raise self._crash


@pytest.fixture
def ros():
    """A domain per test process, so that runs side by side do not hear each other."""
    rig = Ros(domain_id=1 + os.getpid() % 100)
    yield rig
    rig.close()
