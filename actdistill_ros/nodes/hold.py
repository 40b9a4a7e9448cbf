"""Tells the arm driver of a graph to hold, on behalf of whoever is about to take the graph down."""

from __future__ import annotations

import threading
import time

from std_srvs.srv import Trigger

from actdistill_ros.nodes import delivery
from actdistill_ros.nodes.participant import Participant
from actdistill_ros.nodes.stopping import STOP

_AGAIN_S = 0.15
_DISCOVERY_S = 0.5
"""How long other participants may take to be seen; 0.15 s were measured on one machine."""


class Holder:
    """A client of arm/stop that is ready before it is needed; it lives in a ROS context of its own."""

    def __init__(self, namespace: str = "/", domain_id: int | None = None) -> None:
        """See `Participant`."""
        self._participant = Participant("bringup", namespace, domain_id)
        self._node = self._participant.node
        self._client = self._node.create_client(Trigger, STOP)
        self._participant.start()

    def others(self, names: tuple[str, ...], timeout_s: float = _DISCOVERY_S) -> list[str]:
        """Which of `names` run in this namespace already, in graphs that this process did not start."""
        namespace, until = self._node.get_namespace(), time.monotonic() + timeout_s
        found: list[str] = []
        while not found and time.monotonic() < until:
            found = [
                name
                for name, space in self._node.get_node_names_and_namespaces()
                if space == namespace and name in names
            ]
            time.sleep(0.05)
        return found

    def hold(self, timeout_s: float) -> bool:
        """Ask for HOLD where the arm is under power; True if the driver answered in time.

        Asked again, which does no harm: an answer to a client that the driver has not discovered yet is lost."""
        until = time.monotonic() + timeout_s
        if not self._client.wait_for_service(timeout_sec=timeout_s):
            return False
        answered = threading.Event()
        while not answered.is_set() and (left_s := until - time.monotonic()) > 0.0:
            with delivery.survived(self._node.get_logger()):
                self._client.call_async(Trigger.Request()).add_done_callback(lambda _: answered.set())
            answered.wait(min(_AGAIN_S, left_s))
        return answered.is_set()

    def close(self) -> None:
        self._participant.close()
