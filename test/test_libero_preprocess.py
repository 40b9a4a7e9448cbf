"""Each published step from LIBERO's camera to the policy's view, against what TensorFlow 2.21 answered for a frame of
LIBERO."""

from pathlib import Path

import numpy as np
import pytest

from actdistill_ros.suites.libero import preprocess

RECORDED = Path(__file__).parent / "data" / "libero" / "tensorflow.npz"


@pytest.fixture(scope="module")
def recorded():
    """frame: as rendered; jpeg, resized, cropped: TensorFlow's answers after each step."""
    with np.load(RECORDED) as data:
        assert str(data["tensorflow"]) == "2.21.0"
        return {name: data[name] for name in ("frame", "jpeg", "resized", "cropped")}


def differences(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.abs(a.astype(int) - b.astype(int))


def test_a_frame_is_turned_by_half_a_circle():
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (preprocess.turn(frame)[0, 0] == frame[1, 2]).all()
    assert (preprocess.turn(preprocess.turn(frame)) == frame).all()


def test_jpeg_loses_exactly_what_it_loses_in_tensorflow(recorded):
    coded = preprocess.through_jpeg(preprocess.turn(recorded["frame"]))
    assert (coded == recorded["jpeg"]).all()


def test_shrinking_differs_by_one_grey_value_in_at_most_one_pixel_of_a_thousand(recorded):
    off = differences(preprocess.shrink(recorded["jpeg"]), recorded["resized"])
    assert off.max() <= 1 and np.mean(off > 0) < 1e-3


def test_the_centre_crop_is_tensorflows_to_the_pixel(recorded):
    assert (preprocess.centre_crop(recorded["resized"]) == recorded["cropped"]).all()


def test_all_steps_together_differ_by_one_grey_value_in_at_most_one_pixel_of_a_thousand(recorded):
    off = differences(preprocess.view(recorded["frame"]), recorded["cropped"])
    assert off.max() <= 1 and np.mean(off > 0) < 1e-3


def test_a_checkpoint_trained_without_augmentation_sees_the_whole_frame(recorded):
    off = differences(preprocess.view(recorded["frame"], crop=False), recorded["resized"])
    assert off.max() <= 1


def test_an_even_picture_stays_even():
    grey = np.full((256, 256, 3), 100, dtype=np.uint8)
    assert np.unique(preprocess.shrink(grey)).tolist() == [100]
    assert np.unique(preprocess.centre_crop(preprocess.shrink(grey))).tolist() == [100]


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = preprocess.shrink(stripes, 64)[8:-8, 8:-8]
    assert np.ptp(inner) <= 1 and abs(float(inner.mean()) - 127.5) < 1
