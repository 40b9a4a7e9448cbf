"""A camera's thread hands on every newest frame, names an outage, and gets the camera back."""

from __future__ import annotations

import queue
import threading

import numpy as np
import pytest

from actdistill_ros.camera.latest import CameraThread, Health
from actdistill_ros.camera.source import CameraError, Frame, Intrinsics

INTRINSICS = Intrinsics(2, 2, 1.0, 1.0, 0.5, 0.5)


class ScriptedSource:
    """Gives what is put on `script`: a Frame, None (silence) or an error; blocks while there is nothing."""

    def __init__(self) -> None:
        self.script: queue.Queue = queue.Queue()
        self.opened = self.closed = 0
        self.openable = True

    def open(self) -> Intrinsics:
        if not self.openable:
            raise CameraError("not there")
        self.opened += 1
        return INTRINSICS

    def read(self, timeout_s: float) -> Frame | None:
        item = self.script.get(timeout=10.0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1


class Watcher:
    """Collects what the camera's thread hands on and lets a test wait for it."""

    def __init__(self) -> None:
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.health: queue.Queue[Health] = queue.Queue()
        self.threads: set[str] = set()

    def on_frame(self, frame: Frame, intrinsics: Intrinsics) -> None:
        assert intrinsics == INTRINSICS
        self.threads.add(threading.current_thread().name)
        self.frames.put(frame)


@pytest.fixture
def rig():
    source, watcher, now = ScriptedSource(), Watcher(), [100.0]
    camera = CameraThread(source, watcher.on_frame, watcher.health.put, reopen_s=0.01, clock=lambda: now[0])
    yield source, watcher, now, camera
    source.script.put(None)
    camera.close()


def frame(stamp_s: float) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), stamp_s)


def test_frames_are_handed_on_in_the_cameras_own_thread(rig):
    source, watcher, _, camera = rig
    camera.open()
    camera.start()
    for stamp in (1.0, 2.0):
        source.script.put(frame(stamp))
    assert [watcher.frames.get(timeout=5).stamp_s for _ in range(2)] == [1.0, 2.0]
    assert threading.current_thread().name not in watcher.threads
    assert (camera.health.frames, camera.health.last_stamp_s, camera.health.problem) == (2, 2.0, "")


def test_a_camera_that_is_not_there_is_refused_where_it_is_opened(rig):
    source, _, _, camera = rig
    source.openable = False
    with pytest.raises(CameraError, match="not there"):
        camera.open()


def test_an_unplugged_camera_is_named_with_its_moment_and_opened_again(rig):
    source, watcher, now, camera = rig
    camera.open()
    assert watcher.health.get(timeout=5).problem == ""
    camera.start()
    source.openable = False
    now[0] = 107.0
    source.script.put(CameraError("unplugged"))
    unplugged = watcher.health.get(timeout=5)
    assert (unplugged.problem, unplugged.since_s, unplugged.outages) == ("unplugged", 107.0, 1)
    now[0] = 109.0
    absent = watcher.health.get(timeout=5)
    assert (absent.problem, absent.since_s, absent.outages) == (
        "not there",
        107.0,
        1,
    )  # one outage, since its beginning

    source.openable = True
    source.script.put(frame(3.0))
    back = watcher.health.get(timeout=5)
    assert (back.problem, back.since_s) == ("", 109.0)
    assert watcher.frames.get(timeout=5).stamp_s == 3.0
    assert source.opened == 2 and source.closed >= 1


def test_a_camera_that_fails_as_nobody_foresaw_is_named_and_opened_again(rig):
    source, watcher, _, camera = rig
    camera.open()
    watcher.health.get(timeout=5)
    camera.start()
    source.script.put(ZeroDivisionError("odd"))
    assert watcher.health.get(timeout=5).problem == "camera failed: ZeroDivisionError('odd')"
    source.script.put(frame(3.0))
    assert watcher.health.get(timeout=5).problem == "" and source.opened == 2


def test_a_silent_camera_is_named_without_being_closed(rig):
    source, watcher, _, camera = rig
    camera.open()
    watcher.health.get(timeout=5)
    camera.start()
    source.script.put(None)
    assert watcher.health.get(timeout=5).problem == "no frame within 1 s"
    source.script.put(frame(4.0))
    assert watcher.health.get(timeout=5).problem == ""
    assert source.opened == 1


def test_after_close_nothing_is_handed_on(rig):
    source, watcher, _, camera = rig
    camera.open()
    camera.start()
    source.script.put(frame(1.0))
    watcher.frames.get(timeout=5)
    closing = threading.Thread(target=camera.close)
    closing.start()
    while not camera._stop.is_set():  # close has begun, the thread still waits in read
        pass
    source.script.put(frame(2.0))
    closing.join(5)
    assert watcher.frames.empty() and source.closed >= 1
    camera.close()
