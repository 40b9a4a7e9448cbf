"""Frames of a video that somebody else encoded, found by their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from actdistill_ros.data.episode import DataError

TOLERANCE = 0.25
"""Of a frame's period: how far a frame may be from where it is expected; beyond, it could be its neighbour."""
LARGEST_REORDERING = 16
"""Frames by which any codec decodes one before it is shown (H.264, H.265)."""
_BT709 = 1


def decode_at(path: Path, start_s: float, fps: float, count: int) -> Iterator[np.ndarray]:
    """`count` frames from `start_s` on, (H, W, 3) uint8 RGB.

    Raises DataError if the file is missing or damaged, ends too early, or its frames come at another rate.
    """
    if not path.is_file():
        raise DataError(f"video {path} is missing; copy the data set again, with its videos.")
    given = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            origin = stream.start_time or 0
            if start_s > 0:
                # Files are searched by when a frame is decoded. A key frame decoded before the start may be shown after
                # it, and what is shown between the two cannot be decoded from it.
                before_s = max(0.0, start_s - LARGEST_REORDERING / fps)
                container.seek(origin + int(before_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if given == count:
                    return
                time = float((frame.pts - origin) * stream.time_base)
                expected = start_s + given / fps
                if time < expected - TOLERANCE / fps and given == 0:
                    continue
                if abs(time - expected) > TOLERANCE / fps:
                    raise DataError(
                        f"video {path} has a frame at {time:.3f} s where one is expected at {expected:.3f} s: it does "
                        f"not run at {fps:g} frames per second, or frames are missing."
                    )
                if frame.is_corrupt:  # the decoder has painted over what it could not read
                    raise DataError(f"video {path} is damaged at {time:.3f} s; copy it again.")
                yield _rgb(frame)
                given += 1
    except (av.FFmpegError, IndexError) as error:
        raise DataError(
            f"video {path} cannot be decoded after {given} frames ({error}); it was cut or damaged, copy it again."
        ) from error
    if given < count:
        raise DataError(
            f"video {path} gave {given} frames from {start_s:.3f} s on, expected {count}; it was cut or damaged."
        )


def check_whole(path: Path) -> None:
    """Raises DataError unless the file's boxes fill it exactly and its index is among them; decodes nothing."""
    if not path.is_file():
        raise DataError(f"video {path} is missing; copy the data set again, with its videos.")
    size, offset, names = path.stat().st_size, 0, set()
    with open(path, "rb") as file:
        while offset + 8 <= size:
            file.seek(offset)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            names.add(name)
            offset = size if length == 0 else offset + max(length, 8)
    if offset != size or b"moov" not in names or b"mdat" not in names:
        raise DataError(f"video {path} is not whole ({size} bytes); it was cut off, copy it again.")


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """In the colours that the file is tagged with; untagged ones are BT.601, as most encoders leave them."""
    space = Colorspace.ITU709 if frame.colorspace == _BT709 else Colorspace.ITU601
    limits = ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG
    return frame.reformat(
        format="rgb24", src_colorspace=space, src_color_range=limits, dst_color_range=ColorRange.JPEG
    ).to_ndarray()
