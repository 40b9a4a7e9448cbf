"""camera_node publishes each frame with its capture time, and stays alive and says so when a camera goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.exceptions import InvalidParameterValueException
from rclpy.lifecycle import TransitionCallbackReturn
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import CameraInfo, Image

from actdistill_ros.nodes import qos
from actdistill_ros.nodes.camera_node import CameraNode
from actdistill_ros.nodes.image_messages import to_rgb
from actdistill_ros.nodes.lifecycle import autostart
from actdistill_ros.nodes.stamps import to_seconds


def write_video(path, frames: int) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (64, 48))
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    return str(path)


def parameters(path: str, **more) -> dict:
    return {"cameras": ["front"], "backend": "file", "front__path": path, "front__width": 0, "front__height": 0, **more}


@pytest.fixture
def video(tmp_path) -> str:
    return write_video(tmp_path / "red.avi", 10)


@pytest.mark.parametrize("profile", [qos.IMAGES, qos.NEWEST_IMAGE], ids=["reliable", "best effort"])
def test_frames_and_camera_info_share_the_capture_time(ros, video, profile):  # noqa: F811
    node = ros.spin(ros.make(CameraNode, **parameters(video, front__fps=50.0)))
    peer = ros.peer()
    images = ros.hear(peer, Image, "camera/front/image_raw", profile)
    infos = ros.hear(peer, CameraInfo, "camera/front/camera_info", profile)
    assert autostart(node)
    ros.until(lambda: len(images) > 2 and len(infos) > 2, "images and camera_info")

    assert {to_seconds(i.header.stamp) for i in images[:2]} & {to_seconds(i.header.stamp) for i in infos}
    assert images[0].header.frame_id == infos[0].header.frame_id == "front_optical_frame"
    assert (images[0].width, images[0].height) == (infos[0].width, infos[0].height) == (64, 48)
    red = to_rgb(images[0])[24, 32]
    assert red[0] > 200 and red[1] < 60
    assert 0 <= time.time() - to_seconds(images[-1].header.stamp) < 5.0


def test_nothing_is_published_before_activation(ros, video):  # noqa: F811
    node = ros.make(CameraNode, **parameters(video, autostart=False))
    images = ros.hear(ros.peer(), Image, "camera/front/image_raw", qos.IMAGES)
    assert autostart(node) and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    ros.spin(node)
    ros.until(lambda: node._threads["front"].health.frames > 3, "frames read")
    assert not images
    node.trigger_activate()
    ros.until(lambda: images, "an image")


def test_a_camera_that_goes_is_named_on_diagnostics_while_the_node_lives_and_comes_back(ros, tmp_path):  # noqa: F811
    path = write_video(tmp_path / "short.avi", 3)
    node = ros.spin(ros.make(CameraNode, **parameters(path, front__loop=False)))
    heard = ros.hear(ros.peer(), DiagnosticArray, "/diagnostics")
    assert autostart(node)

    def status_of(level):
        found = [s for m in heard for s in m.status if s.level == level and s.hardware_id == "front"]
        return found[-1] if found else None

    error = ros.until(lambda: status_of(DiagnosticStatus.ERROR), "an error on /diagnostics")
    assert (
        "short.avi is over" in error.message and " s)" in error.message and error.name == "/camera_node: camera front"
    )
    heard.clear()
    ok = ros.until(lambda: status_of(DiagnosticStatus.OK), "the camera's return")
    assert int({v.key: v.value for v in ok.values}["outages"]) >= 1


@pytest.mark.parametrize(
    "change", [{"front__path": "/nowhere.mp4"}, {"backend": "firewire"}, {"cameras": ["front", "front"]}]
)
def test_a_wrong_camera_is_refused_and_nothing_stays_open(ros, video, change):  # noqa: F811
    node = ros.make(CameraNode, **{**parameters(video), **change})
    assert not autostart(node)
    assert node._threads == {}


def test_a_rate_below_zero_is_refused(ros, video):  # noqa: F811
    with pytest.raises(InvalidParameterValueException):
        ros.make(CameraNode, **parameters(video, front__fps=-1.0))


def test_cleanup_lets_go_of_the_cameras_and_configure_takes_them_again(ros, video):  # noqa: F811
    node = ros.make(CameraNode, **parameters(video))
    assert autostart(node)
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node._threads == {}
    assert autostart(node)


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGSTOP)
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asleep", [False, True], ids=["awake", "asleep"])
def test_a_signal_ends_the_process_with_zero_and_no_traceback(video, number, asleep):
    words = "cameras:=[front] backend:=file front.width:=0 front.height:=0".split() + [f"front.path:={video}"]
    command = [sys.executable, "-m", "actdistill_ros.nodes.camera_node", "--ros-args"]
    command += [part for word in words for part in ("-p", word)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert "camera front: 64 × 48 from file" in line
        if asleep:  # as by Ctrl-Z: when it goes on, any of its threads may get the signal
            stop(process)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        rest, _ = process.communicate(timeout=5)
        assert process.returncode == 0 and "Traceback" not in rest
    finally:
        process.kill()
