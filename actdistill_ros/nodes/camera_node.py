"""Publishes every camera of the robot, each frame with its capture time and its camera_info."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image

from actdistill_ros.camera import calibration
from actdistill_ros.camera.file import VideoFile
from actdistill_ros.camera.latest import CameraThread, Health
from actdistill_ros.camera.sim import SimCamera
from actdistill_ros.camera.source import CameraError, Frame, FrameSource, Intrinsics
from actdistill_ros.camera.v4l2 import V4l2Camera
from actdistill_ros.nodes import delivery, lifecycle, qos
from actdistill_ros.nodes.image_messages import camera_info_message, image_message
from actdistill_ros.nodes.parameters import Setting, declare, value
from actdistill_ros.nodes.stamps import to_stamp

BACKENDS = ("sim", "v4l2", "file")
SETTINGS = (
    Setting("cameras", ["front", "wrist"], "names of the cameras; each publishes camera/<name>/image_raw"),
    Setting("backend", "sim", f"where frames come from: {', '.join(BACKENDS)}"),
    Setting("sim_endpoint", "", "folder of the simulated world's sockets (backend sim)"),
)


def camera_settings(name: str) -> tuple[Setting, ...]:
    """Parameters of one camera."""
    return (
        Setting(f"{name}.device", "/dev/video0", "path or index of the device (backend v4l2)"),
        Setting(f"{name}.path", "", "video file (backend file)"),
        Setting(f"{name}.loop", True, "play the video file over and over (backend file)"),
        Setting(f"{name}.width", 640, "width of the frames [pixels] (v4l2, file; file: 0 keeps its own)", 0, 8192),
        Setting(f"{name}.height", 480, "height of the frames [pixels] (v4l2, file; file: 0 keeps its own)", 0, 8192),
        Setting(f"{name}.fps", 30.0, "frames per second (v4l2, file; file: 0 keeps its own)", 0.0, 1000.0),
        Setting(f"{name}.frame_id", f"{name}_optical_frame", "tf frame of the lens: z forward, x right, y down"),
        Setting(f"{name}.calibration", "", "calibration file as camera_calibration writes it; empty: not calibrated"),
    )


class CameraNode(LifecycleNode):
    """Configure opens the cameras, activate publishes. A camera that goes while active is named and opened again."""

    def __init__(self, **kwargs) -> None:
        # Before the node itself: a node whose parameters are refused is destroyed half made.
        self._threads: dict[str, CameraThread] = {}
        self._topics: list = []
        self._timer = None
        self._active = False
        super().__init__("camera_node", **kwargs)
        declare(self, *SETTINGS)
        for name in value(self, "cameras"):
            declare(self, *camera_settings(name))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)

    @lifecycle.says_why
    def on_configure(self, state) -> TransitionCallbackReturn:
        names = value(self, "cameras")
        if not names or len(set(names)) != len(names):
            raise CameraError(f"parameter cameras is {list(names)}, expected one or more different names")
        try:
            for name in names:
                self._open(name)
        except Exception:
            self._close()
            raise
        # Started after every camera is open: a missing one must not leave others running.
        for thread in self._threads.values():
            thread.start()
        self._timer = self.create_timer(1.0, self._publish_diagnostics)
        return super().on_configure(state)

    def on_activate(self, state) -> TransitionCallbackReturn:
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._close()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        self._close()
        super().destroy_node()

    def _open(self, name: str) -> None:
        image = self.create_publisher(Image, f"camera/{name}/image_raw", qos.IMAGES)
        info = self.create_publisher(CameraInfo, f"camera/{name}/camera_info", qos.IMAGES)
        self._topics += [image, info]
        frame_id = value(self, f"{name}.frame_id")
        thread = CameraThread(
            self._source(name), partial(self._publish, image, info, frame_id), partial(self._on_health, name)
        )
        self._threads[name] = thread
        intrinsics = thread.open()
        self.get_logger().info(f"camera {name}: {intrinsics.width} × {intrinsics.height} from {value(self, 'backend')}")

    def _source(self, name: str) -> FrameSource:
        def of_camera(key: str):
            return value(self, f"{name}.{key}")

        backend = value(self, "backend")
        intrinsics = calibration.load(Path(of_camera("calibration"))) if of_camera("calibration") else None
        size = of_camera("width"), of_camera("height")
        if backend == "sim":
            return SimCamera(Path(value(self, "sim_endpoint")), name)
        if backend == "v4l2":
            return V4l2Camera(of_camera("device"), *size, of_camera("fps"), intrinsics)
        if backend == "file":
            return VideoFile(Path(of_camera("path")), of_camera("fps"), of_camera("loop"), *size, intrinsics)
        raise CameraError(f"parameter backend is {backend!r}, expected one of {', '.join(BACKENDS)}")

    def _publish(self, image, info, frame_id: str, frame: Frame, intrinsics: Intrinsics) -> None:
        """Runs in the camera's thread, as soon as the frame is there: no timer delays or drops it."""
        if self._active:
            with delivery.survived(self.get_logger()):
                image.publish(image_message(frame.image, frame.stamp_s, frame_id))
                info.publish(camera_info_message(intrinsics, frame.stamp_s, frame_id))

    def _on_health(self, name: str, health: Health) -> None:
        if health.problem:
            self.get_logger().error(f"camera {name}: {health.problem}")
        elif health.outages:
            self.get_logger().info(f"camera {name} is back")
        self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray(status=[self._status(name, thread.health) for name, thread in self._threads.items()])
        message.header.stamp = to_stamp(time.time())
        with delivery.survived(self.get_logger()):  # called in a camera's thread too
            self._diagnostics.publish(message)

    def _status(self, name: str, health: Health) -> DiagnosticStatus:
        lasting = f"for {time.time() - health.since_s:.1f} s"
        values = {"frames": health.frames, "outages": health.outages, "last_stamp_s": f"{health.last_stamp_s:.6f}"}
        return DiagnosticStatus(
            level=DiagnosticStatus.ERROR if health.problem else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: camera {name}",
            message=f"{health.problem} ({lasting})" if health.problem else f"frames come {lasting}",
            hardware_id=name,
            values=[KeyValue(key=key, value=str(number)) for key, number in values.items()],
        )

    def _close(self) -> None:
        """Threads end first: none may publish on a topic that is gone."""
        for thread in self._threads.values():
            thread.close()
        self._threads = {}
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        for topic in self._topics:
            self.destroy_publisher(topic)
        self._topics = []


def main(args: list[str] | None = None) -> int:
    cv2.setNumThreads(1)  # images are small and the cores are shared: threads would wait longer than they work
    return lifecycle.run(CameraNode, args)


if __name__ == "__main__":
    sys.exit(main())
