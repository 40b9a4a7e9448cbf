"""monitor_node shows overlay and markers to whoever looks, and films."""

from __future__ import annotations

import time

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.contract.chunk import Chunk
from actdistill_ros.control.overlay import PANEL
from actdistill_ros.data.video import decode
from actdistill_ros.msg import ActionChunk, ArmState, Routing
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.arm_messages import chunk_message
from actdistill_ros.nodes.image_messages import camera_info_message, image_message, to_rgb
from actdistill_ros.nodes.lifecycle import autostart
from actdistill_ros.nodes.monitor_node import MonitorNode
from actdistill_ros.nodes.policy_messages import routing_message

INTRINSICS = Intrinsics(192, 192, 280.0, 280.0, 95.5, 95.5)


class Graph:
    """A camera, an arm that moves along y and back and a policy, all repeating themselves at 50 Hz."""

    def __init__(self, ros) -> None:  # noqa: F811
        self.ros, self.peer = ros, ros.peer()
        topics = {
            "camera/front/image_raw": Image, "camera/front/camera_info": CameraInfo, "arm/state": ArmState,
            "policy/chunk": ActionChunk, "policy/routing": Routing,
        }  # fmt: skip
        self._topics = {name: self.peer.create_publisher(kind, name, qos.STATE) for name, kind in topics.items()}
        self.ticks = 0
        self.actions = np.tile([0.0, 0.01, 0.0, 0.0, 0.0, 0.0, 1.0], (8, 1))
        self.peer.create_timer(0.02, self._tick)

    def _tick(self) -> None:
        now = time.time()
        self.ticks += 1
        moved_m = 0.1 * abs((self.ticks / 33) % 2 - 1)
        state = ArmState(mode=ArmState.POLICY, source="policy", reason="asked for")
        state.tcp_measured = state.tcp_commanded = Pose(position=Point(x=0.3, y=moved_m, z=0.0))
        say = self._topics
        say["arm/state"].publish(state)
        say["policy/chunk"].publish(chunk_message(Chunk(self.actions, 0.1, 4, now, "lift the red block", "tiny@1")))
        say["policy/routing"].publish(routing_message(now, np.ones(4), np.ones(4, bool), 1.0, {"step": 12.0}))
        say["camera/front/camera_info"].publish(camera_info_message(INTRINSICS, now, "front_optical_frame"))
        say["camera/front/image_raw"].publish(
            image_message(np.full((192, 192, 3), 100, np.uint8), now, "front_optical_frame")
        )


@pytest.fixture
def graph(ros):  # noqa: F811
    return Graph(ros)


def test_the_overlay_carries_the_frames_stamp_and_shows_path_and_words(graph):
    node = graph.ros.spin(graph.ros.make(MonitorNode, overlay_hz=50.0))
    assert autostart(node)
    overlays = graph.ros.hear(graph.peer, Image, "policy/overlay", qos.NEWEST_IMAGE)
    message = graph.ros.until(lambda: overlays, "an overlay")[0]
    assert message.header.frame_id == "front_optical_frame" and message.header.stamp.sec > 0
    assert (message.width, message.height) == (576, 576 + PANEL)
    graph.ros.until(lambda: (to_rgb(overlays[-1])[:576] != 100).any(), "the path in the frame")
    assert to_rgb(overlays[-1])[576:].max() > 200


def test_markers_show_predicted_and_executed_path_workspace_and_state(graph):
    node = graph.ros.spin(graph.ros.make(MonitorNode))
    assert autostart(node)
    heard = graph.ros.hear(graph.peer, MarkerArray, "policy/markers", qos.STATE)

    def complete():
        by_name = {m.ns: m for m in heard[-1].markers} if heard else {}
        return by_name if len(by_name) == 4 and len(by_name["executed"].points) > 5 else None

    by_name = graph.ros.until(complete, "four markers")
    assert len(by_name["predicted"].points) == 9
    assert by_name["predicted"].points[-1].y - by_name["predicted"].points[0].y == pytest.approx(0.08)
    assert by_name["workspace"].type == Marker.CUBE and by_name["workspace"].scale.x > 0.2
    assert by_name["state"].text == "POLICY: asked for\nlift the red block"
    assert {m.header.frame_id for m in heard[-1].markers} == {"base_link"}


def test_a_chunk_that_is_not_finite_is_not_drawn_and_does_no_harm(graph):
    graph.actions[3, 0] = np.nan
    node = graph.ros.spin(graph.ros.make(MonitorNode, overlay_hz=50.0))
    assert autostart(node)
    overlays = graph.ros.hear(graph.peer, Image, "policy/overlay", qos.NEWEST_IMAGE)
    graph.ros.until(lambda: len(overlays) > 3, "overlays all the same")
    assert (to_rgb(overlays[-1])[:576] == 100).all()


def test_the_overlay_is_filmed_to_a_file_that_plays_after_shutdown(graph, tmp_path):
    path = tmp_path / "film.mp4"
    node = graph.ros.spin(graph.ros.make(MonitorNode, overlay_hz=50.0, record=str(path)))
    assert autostart(node)
    graph.ros.until(lambda: node._film.frames >= 5, "five frames on film")
    graph.ros.run(node.trigger_shutdown)
    frames = list(decode(path))
    assert len(frames) >= 5 and frames[0].shape == (576 + PANEL, 576, 3)


def test_a_film_that_cannot_be_written_does_not_end_the_node(graph):
    node = graph.ros.spin(graph.ros.make(MonitorNode, overlay_hz=50.0, record="/proc/no/film.mp4"))
    assert autostart(node)
    overlays = graph.ros.hear(graph.peer, Image, "policy/overlay", qos.NEWEST_IMAGE)
    graph.ros.until(lambda: overlays, "an overlay all the same")
    assert node._film is None


def test_a_camera_position_of_two_numbers_is_refused(graph):
    assert not autostart(graph.ros.make(MonitorNode, camera_position_m=[1.0, 2.0]))
