"""How tests have the real middleware refuse a message: nothing is lost between KEEP_ALL and one who takes nothing."""

from __future__ import annotations

import pytest
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_rig import Ros

from actdistill_ros.nodes.delivery import Refused

KEEP_ALL = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
MORE_THAN_FITS = 20_000
"""10 000 fit: 5000 with who speaks, 5000 with who is deaf."""


class Deaf:
    """Whatever the publisher, of KEEP_ALL, says is refused until `leave`; it has said `message` very often by then."""

    def __init__(self, ros: Ros, publisher, message) -> None:
        self._ros, self._node = ros, ros.peer("deaf", spun=False)
        before = publisher.get_subscription_count()
        self._node.create_subscription(type(message), publisher.topic_name, lambda _: None, KEEP_ALL)
        ros.until(lambda: publisher.get_subscription_count() > before, "somebody deaf")
        with pytest.raises(Refused):
            for _ in range(MORE_THAN_FITS):
                publisher.publish(message)

    def leave(self) -> None:
        self._node.destroy_node()
