"""Each frame source gives the newest frame with its capture time, and says what is wrong when it cannot."""

from __future__ import annotations

import threading
from multiprocessing.connection import Listener

import cv2
import numpy as np
import pytest

from actdistill_ros.camera.file import VideoFile
from actdistill_ros.camera.sim import SimCamera
from actdistill_ros.camera.source import CameraError, Intrinsics
from actdistill_ros.camera.v4l2 import V4l2Camera
from actdistill_ros.sim import protocol


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# --- video file


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Four frames at 10 Hz, 64 × 48: red, green, blue, white."""
    path = tmp_path_factory.mktemp("video") / "four.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for bgr in ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)):
        writer.write(np.full((48, 64, 3), bgr, np.uint8))
    writer.release()
    return path


def colour(frame) -> str:
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    return names[tuple((frame.image[24, 32] > 127).astype(int))]


def test_a_video_plays_at_its_own_rate_in_rgb_and_starts_over(video):
    clock = Clock()
    source = VideoFile(video, clock=clock, sleep=clock.sleep)
    intrinsics = source.open()
    frames = [source.read(1.0) for _ in range(5)]

    assert (intrinsics.height, intrinsics.width) == (48, 64)
    assert [colour(f) for f in frames] == ["red", "green", "blue", "white", "red"]
    np.testing.assert_allclose([f.stamp_s for f in frames], 1000.0 + 0.1 * np.arange(5))


def test_a_given_rate_and_size_replace_the_files_own(video):
    clock = Clock()
    source = VideoFile(video, fps=50.0, width=32, height=24, clock=clock, sleep=clock.sleep)
    source.open()
    first, second = source.read(1.0), source.read(1.0)
    assert second.stamp_s - first.stamp_s == pytest.approx(0.02)
    assert first.image.shape == (24, 32, 3) and first.image.flags.c_contiguous


def test_a_late_reader_gets_the_newest_frame_of_a_video(video):
    clock = Clock()
    source = VideoFile(video, clock=clock, sleep=clock.sleep)
    source.open()
    source.read(1.0)
    clock.now += 0.25
    frame = source.read(1.0)
    assert colour(frame) == "blue" and frame.stamp_s == pytest.approx(1000.2)


def test_a_video_that_is_not_looped_ends_in_words(video):
    clock = Clock()
    source = VideoFile(video, loop=False, clock=clock, sleep=clock.sleep)
    source.open()
    for _ in range(4):
        source.read(1.0)
    with pytest.raises(CameraError, match="is over; set loop"):
        source.read(1.0)


def test_a_read_gives_up_after_its_timeout(video):
    clock = Clock()
    source = VideoFile(video, fps=1.0, clock=clock, sleep=clock.sleep)
    source.open()
    source.read(0.1)
    assert source.read(0.1) is None and clock.now == pytest.approx(1000.1)


def test_a_missing_file_and_a_file_that_is_no_video_are_refused(tmp_path):
    with pytest.raises(CameraError, match="is not there"):
        VideoFile(tmp_path / "none.mp4").open()
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(CameraError, match="is no video"):
        VideoFile(tmp_path / "text.mp4").open()


# --- V4L2: the capture below answers as OpenCV's does for a device


class Capture:
    """Stands for cv2.VideoCapture: frames arrive every 1/30 s, and wait in a queue of `depth` for whoever grabs."""

    def __init__(self, clock: Clock, stamps: bool, depth: int = 4) -> None:
        self.clock, self.stamps, self.depth = clock, stamps, depth
        self.start, self.taken, self.plugged, self.size = clock.now, -1, True, (640, 480)
        self.released = False

    def isOpened(self):
        return self.plugged

    def set(self, key, value):
        return False

    def get(self, key):
        if key == cv2.CAP_PROP_FRAME_WIDTH:
            return float(self.size[0])
        if key == cv2.CAP_PROP_FRAME_HEIGHT:
            return float(self.size[1])
        return (self.start + self.taken / 30.0) * 1000.0 if self.stamps and key == cv2.CAP_PROP_POS_MSEC else 0.0

    def grab(self):
        if not self.plugged:
            return False
        self.taken += 1  # a full queue drops new frames, as V4L2 does
        self.clock.now = max(self.clock.now + 0.0001, self.start + self.taken / 30.0)
        return True

    def retrieve(self):
        return True, np.full((480, 640, 3), (0, 0, self.taken), np.uint8)

    def release(self):
        self.released = True


def v4l2(capture: Capture, clock: Clock, epoch: float = 5000.0) -> V4l2Camera:
    return V4l2Camera(
        0, 640, 480, 30.0, clock=lambda: epoch + clock.now, monotonic=clock, open_capture=lambda *_: capture
    )


@pytest.mark.parametrize("stamps", [True, False])
def test_frames_that_waited_in_the_drivers_queue_are_drained(stamps):
    clock = Clock()
    capture = Capture(clock, stamps)
    camera = v4l2(capture, clock)
    camera.open()
    camera.read(1.0)
    clock.now = capture.start + 3.5 / 30.0  # frames 1, 2 and 3 wait
    frame = camera.read(1.0)

    assert frame.image[0, 0, 0] == (3 if stamps else 4)  # without stamps only a frame waited for is surely new
    assert tuple(frame.image[0, 0, 1:]) == (0, 0)  # RGB: the number is in the red channel


def test_the_stamp_is_the_drivers_capture_time_and_not_the_time_of_the_read():
    clock = Clock()
    capture = Capture(clock, stamps=True)
    camera = v4l2(capture, clock)
    camera.open()
    camera.read(1.0)
    clock.now = capture.start + 1.9 / 30.0
    assert camera.read(1.0).stamp_s == pytest.approx(5000.0 + capture.start + 1.0 / 30.0)


@pytest.mark.parametrize("stamps", [True, False])
def test_a_reader_that_keeps_up_gets_every_frame(stamps):
    clock = Clock()
    capture = Capture(clock, stamps)
    camera = v4l2(capture, clock)
    camera.open()
    numbers = []
    for _ in range(10):
        numbers.append(int(camera.read(1.0).image[0, 0, 0]))
        clock.now += 0.02  # what publishing costs
    assert np.all(np.diff(numbers) == 1)


def test_an_unplugged_camera_is_named_and_can_be_closed_twice():
    clock = Clock()
    capture = Capture(clock, stamps=True)
    camera = v4l2(capture, clock)
    camera.open()
    capture.plugged = False
    with pytest.raises(CameraError, match="camera 0 stopped giving frames"):
        camera.read(1.0)
    camera.close()
    camera.close()
    assert capture.released


def test_a_camera_that_gives_another_size_is_refused():
    clock = Clock()
    capture = Capture(clock, stamps=True)
    capture.size = (1280, 720)
    with pytest.raises(CameraError, match="gives 1280 × 720, expected 640 × 480"):
        v4l2(capture, clock).open()
    assert capture.released


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(CameraError, match="/dev/video987 is not there; present: "):
        V4l2Camera("/dev/video987", 640, 480, 30.0).open()


# --- simulated world

INTRINSICS = {"height": 4, "width": 6, "fx": 5.8, "fy": 5.8, "cx": 2.5, "cy": 1.5}


class World:
    """The camera side of the simulated world for one client: its answer at once, frames on `go`; then it hangs up."""

    def __init__(self, folder, answer: dict, frames: list[bytes]) -> None:
        self.request = {}
        self.go, self.sent, self.hang_up = threading.Event(), threading.Event(), threading.Event()
        self._listener = Listener(protocol.endpoint(folder, protocol.CAMERA), family="AF_UNIX")
        threading.Thread(target=self._serve, args=(answer, frames), daemon=True).start()

    def _serve(self, answer: dict, frames: list[bytes]) -> None:
        with self._listener, self._listener.accept() as client:
            self.request = protocol.recv_json(client)
            protocol.send_json(client, answer)
            self.go.wait(5.0)
            for frame in frames:
                client.send_bytes(frame)
            self.sent.set()
            self.hang_up.wait(5.0)


def frame_body(stamp_s: float, value: int) -> bytes:
    return protocol.FRAME.pack(stamp_s, 4, 6) + bytes([value, 0, 0] * 24)


def test_the_simulated_world_tells_a_cameras_intrinsics(tmp_path):
    world = World(tmp_path, INTRINSICS, [])
    assert SimCamera(tmp_path, "front").open() == Intrinsics(4, 6, 5.8, 5.8, 2.5, 1.5)
    assert world.request == {"camera": "front"}


def test_frames_that_piled_up_are_dropped_and_the_newest_keeps_its_stamp(tmp_path):
    world = World(tmp_path, INTRINSICS, [frame_body(1.0 + i, 10 + i) for i in range(4)])
    camera = SimCamera(tmp_path, "front")
    camera.open()
    world.go.set()
    assert world.sent.wait(5.0)
    newest = camera.read(1.0)
    world.hang_up.set()
    assert newest.stamp_s == 4.0 and tuple(newest.image[3, 5]) == (13, 0, 0)


def test_a_world_that_hangs_up_is_a_camera_error(tmp_path):
    world = World(tmp_path, INTRINSICS, [])
    camera = SimCamera(tmp_path, "front")
    camera.open()
    world.go.set()
    world.hang_up.set()
    with pytest.raises(CameraError, match="no frames of front any more"):
        camera.read(5.0)
    camera.close()
    camera.close()


def test_a_world_without_that_camera_says_which_it_has(tmp_path):
    World(tmp_path, {"error": "no camera 'side'; this world shows front"}, [])
    with pytest.raises(CameraError, match="camera side: no camera 'side'; this world shows front"):
        SimCamera(tmp_path, "side").open()


def test_without_a_world_the_socket_is_named(tmp_path):
    with pytest.raises(CameraError, match="no simulated world answers at .*camera.sock.* start sim_world"):
        SimCamera(tmp_path, "front").open()
