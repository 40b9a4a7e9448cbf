"""What a teacher would have to say for a recorded action, and what its saying means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.known import CONVENTIONS, convention
from actdistill_ros.contract.action_spaces.parts import Frame, Gripper, Reference, Rotation
from actdistill_ros.contract.chunk import GRIPPER
from actdistill_ros.contract.contract import ContractError, Statistics
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.preprocess import state_vector
from actdistill_ros.contract.rotation import from_rotation_vector
from actdistill_ros.data.episode import Episode
from actdistill_ros.data.layout import STATE
from actdistill_ros.data.reader import Dataset
from actdistill_ros.data.writer import Writer
from actdistill_ros.distill.vla.colours import vary
from actdistill_ros.distill.vla.labels import Labels
from actdistill_ros.distill.vla.speech import Speech
from actdistill_ros.policy.vla.tokens import ActionBins

WIDE = Statistics((-0.3,) * 6 + (0.0,), (0.3,) * 6 + (1.0,), (True,) * 6 + (False,), 1)


def quiet(folder: Path) -> Path:
    """Four episodes of small moves from poses that differ."""
    rng = np.random.default_rng(0)
    with Writer.open(folder, {"front": (16, 16)}, 10, "arx_x5", {"chunk": (8, 7)}) as out:
        for number in range(4):
            chunk = rng.uniform(-0.01, 0.01, (3, 8, 7)).astype(np.float32)
            chunk[..., GRIPPER] = number % 2
            poses = [
                ArmPose(rng.uniform(0.1, 0.3, 3), from_rotation_vector(rng.uniform(-0.4, 0.4, 3))) for _ in range(3)
            ]
            state = np.stack(
                [state_vector(pose, opening) for pose, opening in zip(poses, (0.0, 0.4, 1.0), strict=True)]
            )
            images = {"front": np.zeros((3, 16, 16, 3), np.uint8)}
            out.add(Episode(images, state, chunk[:, 0], "lift", number, {"chunk": chunk}))
    return folder


def test_a_label_goes_on_with_what_followed_then_with_the_last_label_then_rests(tmp_path):
    data = numbered(tmp_path / "set", lengths=(20, 3), width=8)
    labels = Labels([data], 16)

    def said(frame):
        return labels.at(frame)[:, 0].tolist()

    assert said(0) == [*range(8), *(100 * i for i in range(8, 16))]
    assert said(7) == [*range(700, 708), *(100 * i for i in range(15, 20)), 1901, 1902, 1903]
    assert said(19) == [*range(1900, 1908), *[0] * 8]
    assert said(20) == [
        *range(2000, 2008),
        2206,
        2207,
        *[0] * 6,
    ]  # three frames: no frame is left, its last label goes on
    assert said(22) == [*range(2200, 2208), *[0] * 8]
    assert labels.at(19)[:, GRIPPER].tolist() == [1.0] * 16
    assert Labels([data], 8).at(7)[:, 0].tolist() == list(range(700, 708))
    assert Labels([data], 1).at(7)[:, 0].tolist() == [700]


def numbered(folder: Path, lengths, width) -> Dataset:
    """Frame t's k-th action moves by 100 t + k; not a motion that any arm makes."""
    with Writer.open(folder, {"front": (16, 16)}, 10, "arx_x5", {"chunk": (width, 7)}) as out:
        start = 0
        for length in lengths:
            chunk = np.zeros((length, width, 7), np.float32)
            chunk[..., 0] = 100 * (start + np.arange(length))[:, None] + np.arange(width)
            chunk[..., GRIPPER] = 1.0
            images = {"front": np.zeros((length, 16, 16, 3), np.uint8)}
            out.add(Episode(images, np.ones((length, 10), np.float32), chunk[:, 0], "lift", start, {"chunk": chunk}))
            start += length
    return Dataset.open(folder)


def test_a_label_starts_at_the_recorded_state(tmp_path):
    data = Dataset.open(quiet(tmp_path / "set"))
    for frame in range(len(data)):
        start = Labels([data], 1).start(frame)
        assert state_vector(start.tcp_in_base, start.opening) == pytest.approx(data.columns(STATE)[frame], abs=1e-6)


def test_colours_vary_within_their_bounds_and_nothing_moves():
    rng = np.random.default_rng(0)
    grey = torch.full((64, 3, 8, 8), 0.5)
    changed = (vary(grey, 64, rng, slice(None)) - grey)[:, :, 0, 0]
    assert changed.abs().max() <= 0.2 + 1e-6 and changed.abs().max() > 0.15
    assert torch.allclose(changed, changed[:, :1].expand(-1, 3), atol=1e-6)  # grey stays grey
    picture = torch.full((64, 3, 8, 8), 0.4)
    picture[:, 0, 2, 5] = 0.6
    varied = vary(picture, 64, rng, slice(None))
    assert (varied[:, 0].flatten(1).argmax(1) == 2 * 8 + 5).all()
    swing = (varied.amax((2, 3)) - varied.amin((2, 3)))[:, 0] / 0.2
    assert swing.min() > 0.8 * 0.8 and swing.max() < 1.2 * 1.2
    assert varied.min() >= 0 and varied.max() <= 1


ROWS = [*CONVENTIONS.values(), Convention("tool", Rotation.EULER, Gripper(0.0, 1.0), "a test", frame=Frame.TOOL)]


@pytest.mark.parametrize("space", ROWS, ids=lambda space: space.name)
def test_what_is_said_in_any_action_space_means_what_was_recorded(space, tmp_path):
    data = Dataset.open(quiet(tmp_path / "set"))
    labels = Labels([data], 1)
    units = np.repeat([space.metres, space.radians], 3)  # m, rad
    reach = np.repeat([0.4, 3.2] if space.reference is Reference.ABSOLUTE else [0.02, 0.02], 3)  # m, rad
    high = (*(reach / units).tolist(), 1.0)
    speech = Speech(space, Statistics(tuple(-x for x in high), high, WIDE.mask, 1), 1, ActionBins(32000))
    gripper = 2 / 255 / abs(space.gripper.open - space.gripper.closed)
    for frame in range(len(labels)):
        recorded, start = labels.at(frame), labels.start(frame)
        off = np.abs(speech.meant(speech.say(recorded, start), start) - recorded)[0]
        assert (off[:6] <= 2 * reach / 255).all() and off[GRIPPER] <= gripper


def test_an_action_beyond_the_range_is_said_as_its_end():
    speech = Speech(convention("product"), WIDE, 1, ActionBins(32000))
    far = np.array([[0.5, -0.5, 0.1, 0, 0, 0, 1.0]])
    assert speech.measured(far, None)[0, 0] == pytest.approx(5 / 3)
    assert speech.say(far, None)[0, :2].tolist() == [1.0, -1.0]
    assert np.abs(speech.meant(speech.say(far, None), None)[0, :3] - [0.3, -0.3, 0.1]).max() < 0.6 / 255


def test_a_value_that_never_changed_in_the_teachers_data_is_no_division_by_zero():
    still = replace(WIDE, q01=(0.0, *WIDE.q01[1:]), q99=(0.0, *WIDE.q99[1:]))
    speech = Speech(convention("product"), still, 1, ActionBins(32000))
    said = speech.say(np.array([[0.0, 0.01, 0, 0, 0, 0, 1.0]]), None)
    assert np.isfinite(said).all() and speech.meant(said, None)[0, 0] == 0.0


@pytest.mark.parametrize("space", ["libero", "simpler_widowx", "fractal_raw", "arx5_metres"])
def test_a_diffusion_head_whose_gripper_could_not_close_or_open_is_refused(space):
    if space == "arx5_metres":
        assert Speech(convention(space), WIDE, 16, None)  # 1 m is open, 0 m is closed
        return
    with pytest.raises(ContractError, match="openings .* expected closed and open"):
        Speech(convention(space), WIDE, 16, None)
