"""Pictures and videos that others encoded: in their colours, and refused where something is missing."""

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from actdistill_ros.data.episode import DataError
from actdistill_ros.data.foreign_video import decode_at
from actdistill_ros.data.source import decode_image

RED = (200, 30, 40)


def scene() -> np.ndarray:
    image = np.full((64, 64, 3), 120, np.uint8)
    image[16:48, 16:48] = RED
    return image


def encoded(kind: str, image: np.ndarray) -> bytes:
    return cv2.imencode(kind, image)[1].tobytes()


def test_jpeg_and_png_come_back_as_rgb_with_or_without_transparency():
    bgr = scene()[..., ::-1]
    assert np.array_equal(decode_image(encoded(".png", bgr), "a"), scene())
    assert np.abs(decode_image(encoded(".jpg", bgr), "a").astype(int) - scene()).mean() < 3
    assert np.array_equal(decode_image(encoded(".png", np.dstack([bgr, np.full((64, 64), 9, np.uint8)])), "a"), scene())


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("lost", [1, 40, 200])
def test_a_picture_whose_end_is_missing_is_refused(kind, lost):
    rng = np.random.default_rng(0)
    data = encoded(kind, rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="picture 7 cannot be decoded; it was cut off or damaged"):
        decode_image(data[:-lost], "picture 7")


def test_depth_and_grey_pictures_are_no_camera_images():
    for image in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)):
        with pytest.raises(DataError, match="expected a colour image of 8 bits per channel"):
            decode_image(encoded(".png", image), "a")


@pytest.mark.parametrize("space", ["BT.601", "BT.709"])
@pytest.mark.parametrize("limits", [ColorRange.MPEG, ColorRange.JPEG])
def test_a_video_is_shown_in_the_colours_it_is_tagged_with(tmp_path, space, limits):
    matrix, tag = {"BT.601": (Colorspace.ITU601, 6), "BT.709": (Colorspace.ITU709, 1)}[space]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = tag, limits, tag, tag
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(scene(), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=limits)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = list(decode_at(tmp_path / "a.mp4", 0.0, 10, 5))
    assert len(found) == 5
    for image in found:
        assert np.abs(image[24:40, 24:40].astype(int) - RED).max() < 6
        assert np.abs(image[2:10, 2:10].astype(int) - 120).max() < 4


def test_frames_from_the_middle_of_a_video_are_those_of_their_time(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5", "g": "7"})  # with frames out of order
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 6 * number, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = [round(image.mean() / 6) for image in decode_at(tmp_path / "a.mp4", 17 / 30, 30, 12)]
    assert found == list(range(17, 29))
