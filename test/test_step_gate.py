"""The policy steps after the last action, from frames of that moment, and says why when it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actdistill_ros.camera.source import Frame
from actdistill_ros.contract.contract import CameraSpec
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.step_gate import ArmReport, StepGate

CAMERAS = (CameraSpec("front", 8, 4, 6), CameraSpec("wrist", 8, 4, 6))
POSE = ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3))
DONE = ArmReport("POLICY", True, "asked for", (), POSE, 0.5, 0.0, 1, 0, 0.0)


class Scene:
    """A gate with a clock; frames and reports carry the present time unless told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.gate = StepGate(CAMERAS, max_frame_age_s=0.5, clock=lambda: self.now)

    def see(self, *names: str, age_s: float = 0.0, size=(4, 6)) -> None:
        for name in names or ("front", "wrist"):
            self.gate.see(name, Frame(np.zeros((*size, 3), np.uint8), self.now - age_s))

    def hear(self, **changes) -> None:
        self.gate.hear(replace(DONE, stamp_s=self.now, **changes))

    def go(self, seconds: float) -> None:
        self.now += seconds

    def ready(self) -> None:
        """Started, with fresh frames and an arm that waits."""
        self.gate.start()
        self.see()
        self.hear()

    def step(self) -> float:
        """Take an observation, send its chunk; the chunk's stamp."""
        stamp_s = self.gate.take("lift").stamp_s
        self.gate.sent(stamp_s)
        return stamp_s


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_ready_arm_and_fresh_frames_make_one_observation(scene):
    scene.ready()
    observation = scene.gate.take("lift")
    assert set(observation.images) == {"front", "wrist"} and observation.instruction == "lift"
    assert observation.tcp_commanded is POSE and observation.gripper_measured == 0.5
    assert scene.gate.take("lift") is None  # one at a time


def test_the_stamp_is_that_of_the_oldest_image(scene):
    scene.gate.start()
    scene.go(0.1)
    scene.see("front", age_s=0.03)
    scene.see("wrist", age_s=0.01)
    scene.hear()
    assert scene.gate.take("lift").stamp_s == scene.now - 0.03


def test_nothing_is_taken_before_start_and_after_stop(scene):
    scene.see()
    scene.hear()
    assert scene.gate.take("lift") is None
    scene.ready()
    scene.gate.stop()
    assert scene.gate.take("lift") is None


def test_frames_from_before_the_start_are_not_used(scene):
    scene.see()
    scene.go(0.01)
    scene.gate.start()
    scene.hear()
    assert scene.gate.take("lift") is None
    scene.see()
    assert scene.gate.take("lift") is not None


def test_no_step_while_actions_of_the_chunk_are_left(scene):
    scene.ready()
    stamp_s = scene.step()
    scene.go(0.2)
    scene.see()
    scene.hear(chunk_stamp_s=stamp_s, actions_left=2)
    assert scene.gate.take("lift") is None
    scene.hear(chunk_stamp_s=stamp_s, actions_left=0)
    assert scene.gate.take("lift") is not None


def test_a_chunk_on_its_way_is_waited_for_although_the_arm_still_shows_the_one_before(scene):
    scene.ready()
    scene.step()
    scene.go(0.02)
    scene.see()
    scene.hear(chunk_stamp_s=500.0, actions_left=0)
    assert scene.gate.take("lift") is None


def test_frames_of_the_moving_arm_are_not_used_but_one_of_the_last_thirtieth_of_a_second_is(scene):
    scene.ready()
    stamp_s = scene.step()
    scene.go(0.4)
    scene.see(age_s=0.05)
    scene.hear(chunk_stamp_s=stamp_s, actions_left=0)
    assert scene.gate.take("lift") is None
    scene.see("front", age_s=0.03)
    assert scene.gate.take("lift") is None  # each camera must be new
    scene.see("wrist", age_s=0.03)
    assert scene.gate.take("lift") is not None


def test_a_hold_that_a_chunk_ends_is_no_obstacle(scene):
    scene.ready()
    scene.hear(mode="HOLD", follows_policy=True, reason="policy silent for 1.0 s")
    assert scene.gate.take("lift") is not None and scene.gate.problem() == ""


@pytest.mark.parametrize("change", [{"follows_policy": False, "mode": "HOLD"}, {"faults": ("joint2: overload",)}])
def test_an_arm_that_does_not_follow_gets_no_observation(scene, change):
    scene.ready()
    scene.hear(**change)
    assert scene.gate.take("lift") is None


def test_a_chunk_that_was_not_taken_up_is_followed_by_a_fresh_one(scene):
    scene.ready()
    scene.step()
    scene.go(0.6)
    scene.see()
    scene.hear(chunk_stamp_s=500.0)
    assert scene.gate.take("lift").stamp_s == scene.now


def test_a_chunk_counts_as_refused_until_another_is_taken(scene):
    scene.ready()
    assert not scene.gate.refused
    scene.step()
    scene.go(0.6)
    scene.see()
    scene.hear(chunk_stamp_s=500.0)
    assert scene.gate.refused
    stamp_s = scene.step()
    assert scene.gate.refused, "nothing is heard of the next one yet"
    scene.hear(chunk_stamp_s=stamp_s)
    assert not scene.gate.refused


def test_five_chunks_in_a_row_that_were_not_taken_up_are_a_problem(scene):
    scene.ready()
    for _ in range(5):
        assert scene.gate.problem() == ""
        scene.step()
        scene.go(0.4)
        scene.see()
        scene.hear(chunk_stamp_s=500.0)
        scene.go(0.2)
        scene.see()
        scene.hear(chunk_stamp_s=500.0, reason="chunk refused: far jump")
    assert scene.gate.problem() == "arm: 5 chunks in a row came to nothing: chunk refused: far jump"


def test_five_chunks_in_a_row_whose_first_action_is_refused_are_a_problem(scene):
    scene.ready()
    for _ in range(5):
        assert scene.gate.problem() == ""
        stamp_s = scene.step()
        scene.go(0.1)
        scene.see()
        scene.hear(chunk_stamp_s=stamp_s, actions_done=0, actions_left=2)
        scene.hear(chunk_stamp_s=stamp_s, actions_done=0, mode="HOLD", reason="action 1 refused: unreachable")
    assert scene.gate.problem() == "arm: 5 chunks in a row came to nothing: action 1 refused: unreachable"


def test_a_chunk_of_which_one_action_was_done_is_progress(scene):
    scene.ready()
    for done in (0, 0, 0, 0, 1, 0, 0, 0, 0):
        stamp_s = scene.step()
        scene.go(0.1)
        scene.see()
        scene.hear(chunk_stamp_s=stamp_s, actions_done=done, reason="action 2 refused: unreachable")
        assert scene.gate.refused == (done == 0)
    assert scene.gate.problem() == ""


def test_an_arm_that_leaves_the_policy_is_a_problem_with_its_mode_and_reason(scene):
    scene.ready()
    scene.hear(follows_policy=False, mode="ESTOP", reason="asked for")
    assert scene.gate.problem() == "arm: in mode ESTOP: asked for"


def test_an_arm_may_take_a_moment_to_enter_the_policy_but_not_two_seconds(scene):
    scene.gate.start()
    scene.see()
    scene.hear(follows_policy=False, mode="IDLE", reason="nobody commands")
    assert scene.gate.problem() == ""
    scene.go(2.1)
    scene.see()
    scene.hear(follows_policy=False, mode="IDLE", reason="nobody commands")
    assert scene.gate.problem() == "arm: in mode IDLE: nobody commands"


def test_faults_and_silence_of_the_arm_are_problems(scene):
    scene.ready()
    scene.hear(faults=("joint2: overload",))
    assert scene.gate.problem() == "arm: joint2: overload"
    scene.hear()
    scene.go(1.2)
    assert scene.gate.problem() == "arm: arm/state silent for 1.2 s"


def test_a_silent_camera_is_named_with_the_time_since_its_last_frame(scene):
    scene.ready()
    scene.go(0.6)
    scene.see("front")
    scene.hear()
    assert scene.gate.problem() == "camera: wrist silent for 0.6 s"


def test_a_frame_of_another_size_is_refused_with_both_sizes_until_the_right_one_comes(scene):
    scene.ready()
    scene.see("wrist", size=(480, 640))
    assert scene.gate.take("lift") is None
    for words in (scene.gate.problem(), scene.gate.missing()):
        assert words.startswith("contract: camera wrist gives 640 × 480, the checkpoint was trained on 6 × 4")
    scene.see("wrist")
    assert scene.gate.problem() == ""


def test_what_a_start_waits_for_is_named(scene):
    assert scene.gate.missing() == "camera: no frames of front, wrist on camera/<name>/image_raw"
    scene.see()
    assert scene.gate.missing().startswith("arm: arm/state is silent")
    scene.hear()
    assert scene.gate.missing() == ""
