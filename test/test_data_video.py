"""Video files: as many frames as went in, in their colours, and any of them alone."""

import av
import cv2
import numpy as np
import pytest

from actdistill_ros.data.episode import DataError
from actdistill_ros.data.foreign_video import decode_at
from actdistill_ros.data.video import Encoder, decode


def scene(frame: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A grey table with a red ball and a blue block on the move."""
    image = np.full((height, width, 3), (140, 130, 120), np.uint8)
    cv2.circle(image, (20 + frame % 80, 40), 9, (200, 20, 20), -1)
    cv2.rectangle(image, (60, 60 + frame % 20), (75, 75 + frame % 20), (20, 40, 200), -1)
    return image


@pytest.fixture
def video(tmp_path):
    encoder = Encoder(tmp_path / "a.mp4", 96, 128, fps=10)
    for frame in range(45):
        encoder.write(scene(frame))
    encoder.close()
    encoder.close()
    return tmp_path / "a.mp4"


def test_frames_come_back_in_number_and_nearly_in_value(video):
    frames = list(decode(video))
    assert len(frames) == 45
    errors = [np.abs(found.astype(int) - scene(number)).mean() for number, found in enumerate(frames)]
    assert max(errors) < 2


def test_red_stays_red_and_blue_stays_blue(video):
    first = next(decode(video))
    assert np.abs(first[40, 20].astype(int) - (200, 20, 20)).max() < 8
    assert np.abs(first[68, 68].astype(int) - (20, 40, 200)).max() < 8


@pytest.mark.parametrize("start", [0, 1, 17, 44])
def test_any_frame_can_be_asked_for_alone(video, start):
    (found,) = decode(video, start, 1)
    errors = [np.abs(found.astype(int) - scene(number)).mean() for number in range(45)]
    assert int(np.argmin(errors)) == start


def test_too_short_a_video_is_named(video):
    with pytest.raises(DataError, match="gave 5 frames from frame 40 on, expected 10"):
        list(decode(video, 40, 10))


def test_frames_that_cannot_be_stored_are_refused(tmp_path):
    with pytest.raises(DataError, match="both sides must be even"):
        Encoder(tmp_path / "odd.mp4", 95, 128, fps=10)
    encoder = Encoder(tmp_path / "b.mp4", 96, 128, fps=10)
    with pytest.raises(DataError, match=r"frame is \(64, 64, 3\) uint8, expected \(96, 128, 3\)"):
        encoder.write(scene(0, 64, 64))
    encoder.write(scene(0))
    encoder.close()


@pytest.mark.parametrize("codec, options", [
    ("libx264", {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0", "bf": "3"}),
    ("mpeg4", {"g": "12", "bf": "2"}),
])  # fmt: skip
def test_any_frame_of_a_foreign_video_is_reached_where_frames_lean_on_later_ones(tmp_path, codec, options):
    path = tmp_path / "foreign.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = list(decode_at(path, 0.0, 10, 40))
    for start in range(1, 37):
        assert np.array_equal(list(decode_at(path, start / 10, 10, 3)), whole[start : start + 3]), start
