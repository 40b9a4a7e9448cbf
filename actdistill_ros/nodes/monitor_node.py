"""Shows what the policy sees, plans and has done: an overlay image, markers, and a film of the overlay."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import replace

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.control import settings
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.overlay import Plan, draw, look_at, plan_of
from actdistill_ros.msg import ActionChunk, ArmState, Routing
from actdistill_ros.nodes import lifecycle, qos
from actdistill_ros.nodes.arm_messages import chunk_from_message
from actdistill_ros.nodes.image_messages import image_message, intrinsics_of, to_rgb
from actdistill_ros.nodes.marker_messages import markers
from actdistill_ros.nodes.parameters import Setting, declare, value
from actdistill_ros.nodes.policy_messages import pose_of
from actdistill_ros.nodes.stamps import to_seconds
from actdistill_ros.sim import layout
from actdistill_ros.trials.video import Film

SETTINGS = (
    Setting("camera", "front", "camera whose frames are drawn on"),
    Setting(
        "camera_position_m", layout.FRONT_POSITION_M.tolist(), "where that camera is in base_link [m]; for camera front"
    ),
    Setting(
        "camera_look_at_m", layout.FRONT_LOOK_AT_M.tolist(), "point it looks at [m]; the same as its position: unknown"
    ),
    Setting("overlay_hz", 10.0, "overlay images per second at most", 0.1, 60.0),
    Setting("record", "", "new .mp4 file that the overlay is filmed to; empty: none"),
)
_MARKERS_S = 0.2
_TRAIL_POINTS, _TRAIL_STEP_M = 500, 0.002


class MonitorNode(LifecycleNode):
    """Only listens; the graph works without it."""

    def __init__(self, **kwargs) -> None:
        self._film: Film | None = None
        super().__init__("monitor_node", **kwargs)
        declare(self, *SETTINGS)
        self._active = False
        self._plan, self._state, self._intrinsics = Plan(), None, None
        self._trail: deque[np.ndarray] = deque(maxlen=_TRAIL_POINTS)
        self._drawn_s = 0.0
        self._overlay = self.create_publisher(Image, "policy/overlay", qos.IMAGES)
        self._markers = self.create_publisher(MarkerArray, "policy/markers", qos.STATE)
        self.create_subscription(ArmState, "arm/state", self._on_state, qos.STATE)
        self.create_subscription(ActionChunk, "policy/chunk", self._on_chunk, qos.STATE)
        self.create_subscription(Routing, "policy/routing", self._on_routing, qos.STATE)
        camera = f"camera/{value(self, 'camera')}"
        self.create_subscription(Image, f"{camera}/image_raw", self._on_image, qos.NEWEST_IMAGE)
        self.create_subscription(CameraInfo, f"{camera}/camera_info", self._on_camera_info, qos.NEWEST_IMAGE)
        self.create_timer(_MARKERS_S, self._publish_markers)

    @lifecycle.says_why
    def on_configure(self, state) -> TransitionCallbackReturn:
        limits = settings.load()
        self._workspace = limits.workspace_min_m, limits.workspace_max_m
        # The wrist camera moves with the arm: its pose is not a parameter.
        fixed = value(self, "camera") != "wrist"
        at, target = (np.array(value(self, name)) for name in ("camera_position_m", "camera_look_at_m"))
        if at.shape != (3,) or target.shape != (3,):
            raise ValueError("camera_position_m and camera_look_at_m have 3 numbers each: x, y, z in base_link [m]")
        self._camera = look_at(at, target) if fixed else None
        if value(self, "record"):
            self._film = Film(value(self, "record"), round(value(self, "overlay_hz")))
        return super().on_configure(state)

    def on_activate(self, state) -> TransitionCallbackReturn:
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self._close_film()
        return super().on_cleanup(state)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._active = False
        self._close_film()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        self._close_film()
        super().destroy_node()

    def _close_film(self) -> None:
        """A film that is not closed cannot be played."""
        if self._film is not None:
            self._film.close()
            self._film = None

    def _on_state(self, message: ArmState) -> None:
        self._state = message
        self._plan = replace(self._plan, status=_status(message))
        at = message.tcp_measured.position
        point = np.array([at.x, at.y, at.z])
        if not np.isfinite(point).all():
            return
        if not self._trail or np.linalg.norm(point - self._trail[-1]) > _TRAIL_STEP_M:
            self._trail.append(point)

    def _on_chunk(self, message: ActionChunk) -> None:
        if self._state is None:
            return
        if message.instruction != self._plan.instruction:
            self._trail.clear()
        try:
            old = self._plan
            self._plan = plan_of(
                chunk_from_message(message),
                pose_of(self._state.tcp_commanded),
                status=old.status,
                executed=old.executed,
                latency_ms=old.latency_ms,
            )
        except ValueError as error:
            self.get_logger().warning(f"chunk is not drawn: {error}", throttle_duration_sec=5.0)

    def _on_routing(self, message: Routing) -> None:
        latency_ms = dict(zip(message.stages, message.latency_ms, strict=False)).get("step", 0.0)
        self._plan = replace(self._plan, executed=tuple(message.executed), latency_ms=latency_ms)

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            self._intrinsics: Intrinsics | None = intrinsics_of(message)
        except ValueError as error:
            self._intrinsics = None
            self.get_logger().warning(f"the path is not drawn: {error}", once=True)

    def _on_image(self, message: Image) -> None:
        wanted = self._overlay.get_subscription_count() > 0 or self._film is not None
        now_s = time.time()
        # A tenth of slack: frames come on a grid of their own.
        if not (self._active and wanted) or now_s - self._drawn_s < 0.9 / value(self, "overlay_hz"):
            return
        self._drawn_s = now_s
        try:
            image = draw(to_rgb(message), self._plan, self._intrinsics, self._camera)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self._record(image)
        self._overlay.publish(image_message(image, to_seconds(message.header.stamp), message.header.frame_id))

    def _record(self, image: np.ndarray) -> None:
        if self._film is None:
            return
        try:
            self._film.add(image)
        except Exception as error:  # a full or read-only disk must not take the graph down
            self.get_logger().error(f"filming to {value(self, 'record')} ends: {error}")
            self._film = None

    def _publish_markers(self) -> None:
        if self._active and self._markers.get_subscription_count():
            text = f"{self._plan.status}\n{self._plan.instruction}".strip()
            self._markers.publish(markers(time.time(), self._plan.path_m, self._trail, self._workspace, text))


def _status(state: ArmState) -> str:
    words = f"{Mode(state.mode).name}: {state.reason}"
    return f"{words} | {'; '.join(state.faults)}" if state.faults else words


def main(args: list[str] | None = None) -> int:
    cv2.setNumThreads(1)  # images are small and the cores are shared: threads would wait longer than they work
    return lifecycle.run(MonitorNode, args)


if __name__ == "__main__":
    sys.exit(main())
