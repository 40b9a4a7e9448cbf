"""Frames to an H.264 file, and frame-exact back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from actdistill_ros.data.episode import DataError

CODEC, PIXELS = "h264", "yuv420p"
CRF = 14
KEY_EVERY = 2
"""Frames between key frames: any frame is reached by decoding at most two."""
BT601_PRIMARIES = BT601_TRANSFER = 6


class Encoder:
    """One video being written; `frames` counts what went in. Nothing is playable before `close`."""

    def __init__(
        self, path: Path, height: int, width: int, fps: int, crf: int = CRF, key_every: int = KEY_EVERY
    ) -> None:
        if height % 2 or width % 2:
            raise DataError(f"video frames of {height}x{width} cannot be stored: both sides must be even.")
        self.frames = 0
        self._shape = (height, width, 3)
        self._container = av.open(str(path), "w", format="mp4")
        options = {"crf": str(crf), "preset": "veryfast", "g": str(key_every), "bf": "0"}
        self._stream = self._container.add_stream("libx264", rate=fps, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, PIXELS
        # One thread: encoders and a simulator share the cores; on small frames threads cost more than they give.
        context = self._stream.codec_context
        context.thread_count = 1
        # Readers must turn the very colours back that were put in, whatever they assume for untagged files.
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
        context.color_primaries, context.color_trc = BT601_PRIMARIES, BT601_TRANSFER

    def write(self, image: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame."""
        if image.shape != self._shape or image.dtype != np.uint8:
            raise DataError(f"video frame is {image.shape} {image.dtype}, expected {self._shape} uint8.")
        frame = av.VideoFrame.from_ndarray(_planes(np.ascontiguousarray(image)), format=PIXELS)
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None


def decode(path: Path, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
    """Frames `start` … `start + count` of a file as (H, W, 3) uint8 RGB.

    Raises DataError if the file is missing, broken, or ends before `count` frames came.
    """
    if not path.is_file():
        raise DataError(f"video {path} is missing; copy the data set again, with its videos.")
    given = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if start:
                container.seek(_pts(stream, start), stream=stream)
            for frame in container.decode(stream):
                if count is not None and given == count:
                    return
                if frame.pts < _pts(stream, start):
                    continue
                if frame.is_corrupt:  # the decoder has painted over what it could not read
                    raise DataError(f"frame {start + given} of video {path} is damaged; copy the data set again.")
                yield cv2.cvtColor(frame.to_ndarray(format=PIXELS), cv2.COLOR_YUV2RGB_I420)
                given += 1
    except (av.FFmpegError, IndexError) as error:
        raise DataError(
            f"video {path} cannot be decoded after {given} frames ({error}); it was cut or damaged."
        ) from error
    if count is not None and given < count:
        raise DataError(
            f"video {path} gave {given} frames from frame {start} on, expected {count}; it was cut or damaged."
        )


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB as (H · 3 / 2, W) YUV 4:2:0, each chroma sample the mean of its four pixels.

    Taking one pixel of four instead, as the plain conversion does, costs small objects their colour at the edges.
    """
    height, width = image.shape[:2]
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    blocks = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    blocks = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    planes[height:] = cv2.cvtColor(blocks, cv2.COLOR_RGB2YUV_I420)[height:]
    return planes


def _pts(stream: av.VideoStream, frame: int) -> int:
    return round(frame / stream.average_rate / stream.time_base)
