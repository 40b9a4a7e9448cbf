"""Films: whatever a camera or an overlay gives can be watched."""

import numpy as np

from actdistill_ros.data.video import decode
from actdistill_ros.trials.video import COLOURS, HEIGHT_MIN, caption, write_mp4


def test_frames_of_odd_and_changing_size_make_one_film(tmp_path):
    frames = [np.full((95, 127, 3), 90, np.uint8), np.full((192, 192, 3), 90, np.uint8)]
    assert write_mp4(tmp_path / "new" / "a.mp4", frames, fps=10) == 2
    found = list(decode(tmp_path / "new" / "a.mp4"))
    assert [image.shape for image in found] == [(96, 128, 3)] * 2
    assert np.abs(found[1].astype(int) - 90).max() <= 3


def test_no_frames_leave_no_file(tmp_path):
    assert write_mp4(tmp_path / "a.mp4", [], fps=10) == 0
    assert not (tmp_path / "a.mp4").exists()


def test_a_caption_leaves_the_picture_whole_and_shows_the_verdict():
    image = np.random.default_rng(0).integers(0, 255, (192, 192, 3), np.uint8)
    shown = caption(image, "bowl, seed 7", "failure")
    factor = HEIGHT_MIN // 192
    assert np.array_equal(shown[: 192 * factor : factor, ::factor], image)
    assert tuple(shown[-1, 0]) == COLOURS["failure"]
    assert caption(image, "bowl, seed 7")[-1, 0].sum() == 0
    assert shown[192 * factor :].max() > 200
