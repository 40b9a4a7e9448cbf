"""What a policy is shown of LIBERO and what becomes of its actions there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from libero_parts import stand_in_environment
from vla_parts import TINY, deployed, edit_json, listening_router, maker

from actdistill_ros import cli
from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, ContractError, Statistics
from actdistill_ros.contract.rotation import from_rotation_vector
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.model import Policy
from actdistill_ros.policy.runtime import PolicyRuntime
from actdistill_ros.policy.vla import checkpoint as published
from actdistill_ros.policy.vla import student_folder
from actdistill_ros.suites.libero import policies, preprocess, protocol, vla
from actdistill_ros.suites.libero.scripted import BOWL, PLATE, Scripted
from actdistill_ros.suites.policy import Look
from actdistill_ros.trials import candidate

ROOT = Path(__file__).resolve().parent.parent
LIBERO = Contract(
    robot="panda",
    cameras=(CameraSpec("agentview", 32, 256, 256),),
    action=ActionSpace(0.05, 8, 4, 0.05, 0.5),
    statistics={"libero": Statistics((-0.05,) * 6 + (0.0,), (0.05,) * 6 + (1.0,), (True,) * 6 + (False,), 1)},
    statistics_key="libero",
    instructions=("put the bowl on the plate",),
)


def saved(folder: Path, contract: Contract = LIBERO) -> Path:
    """A checkpoint with random weights, as small as the policy allows."""
    torch.manual_seed(0)
    config = PolicyConfig(
        ("bowl", "on", "plate", "put", "the"),
        cameras=tuple(camera.name for camera in contract.cameras),
        image_size=32,
        vision_tokens=(2,),
        vision_width=8,
        width=20,
        feed_forward=16,
        layers=2,
    )
    checkpoint.save(folder, Policy(config), contract)
    return folder


def look(frame: np.ndarray | None = None) -> Look:
    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8) if frame is None else frame
    state = np.array([-0.2, 0.01, 1.17, 3.14, 0.02, -0.09, 0.03, -0.03])
    objects = {BOWL: np.array([0, 0.1, 0.9, 0, 0, 0, 1]), PLATE: np.array([0.1, 0.2, 0.9, 0, 0, 0, 1])}
    return Look({"agentview": frame}, state, "put the bowl on the plate", objects)


class Seen:
    """A runtime that notes what it is shown and answers what it was made with."""

    def __init__(self, runtime, answer=None):
        self.contract, self.checkpoint_id, self._runtime, self._answer = (
            runtime.contract,
            runtime.checkpoint_id,
            runtime,
            answer,
        )

    def reset(self):
        self._runtime.reset()

    def step(self, observation):
        self.observation = observation
        result = self._runtime.step(observation)
        return result if self._answer is None else replace(result, chunk=replace(result.chunk, actions=self._answer))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return PolicyRuntime.load(saved(tmp_path_factory.mktemp("checkpoint") / "libero"))


def test_a_checkpoint_answers_as_many_actions_as_it_means_to_run_with_what_it_cost(runtime):
    decision = policies.RuntimePolicy(runtime, preprocess.turn).act(look())
    assert decision.actions.shape == (4, 7) and np.isfinite(decision.actions).all()
    assert np.abs(decision.actions[:, :6]).max() <= 1 and set(decision.actions[:, 6]) <= {-1.0, 1.0}
    assert list(decision.executed) == [True, True] and decision.decoder_ms > 0 and decision.budget == 1.0


def test_metres_and_radians_become_the_controllers_units_and_an_open_gripper_minus_one(runtime):
    actions = np.zeros((8, 7))
    actions[0] = [0.05, 0, 0, 0, 0, 0.25, 1.0]
    actions[1] = [0, -0.2, 0, 0, 0, 0, 0.0]
    found = policies.RuntimePolicy(Seen(runtime, actions), preprocess.turn).act(look()).actions
    assert found[0] == pytest.approx([1, 0, 0, 0, 0, 0.5, -1]) and found[1] == pytest.approx([0, -1, 0, 0, 0, 0, 1])


def test_the_policy_sees_the_frame_prepared_once_and_the_arm_in_the_products_terms(runtime):
    seen = Seen(runtime)
    policies.RuntimePolicy(seen, preprocess.view).act(look())
    observation = seen.observation
    assert (observation.images["agentview"] == preprocess.view(look().images["agentview"])).all()
    assert observation.instruction == "put the bowl on the plate" and observation.gripper_measured == pytest.approx(
        0.75
    )
    assert observation.tcp_commanded.position_m.tolist() == [-0.2, 0.01, 1.17]
    assert observation.tcp_commanded.rotation == pytest.approx(from_rotation_vector(np.array([3.14, 0.02, -0.09])))


def test_stamps_count_the_actions_run_and_begin_anew_with_each_episode(runtime):
    seen, stamps = Seen(runtime), []
    policy = policies.RuntimePolicy(seen, preprocess.turn)
    for _ in range(2):
        policy.begin("put the bowl on the plate")
        for _ in range(3):
            policy.act(look())
            stamps.append(seen.observation.stamp_s)
    assert stamps == pytest.approx([0.0, 0.2, 0.4] * 2)


@pytest.mark.parametrize(
    "changed",
    [{"cameras": (CameraSpec("front", 32, 256, 256),)}, {"action": ActionSpace(0.1, 8, 4, 0.05, 0.5)}],
    ids=["camera", "rate"],
)
def test_a_checkpoint_for_other_cameras_or_another_rate_is_refused(tmp_path, changed):
    other = PolicyRuntime.load(saved(tmp_path / "other", replace(LIBERO, **changed)))
    with pytest.raises(ContractError, match="LIBERO shows agentview, robot0_eye_in_hand at 20 Hz"):
        policies.RuntimePolicy(other, preprocess.turn)


def test_the_bundled_teacher_is_refused_in_one_sentence(tmp_path, capsys):
    place = stand_in_environment(tmp_path / "libero")
    words = [
        "--checkpoint",
        str(ROOT / "models" / "tabletop-teacher"),
        "--suite",
        "libero_spatial",
        "--libero",
        str(place),
    ]
    assert cli.main(["eval", *words, "--out", str(tmp_path / "run")]) == 2
    assert "is for arx_x5: cameras front, wrist at 10 Hz" in capsys.readouterr().err


def test_a_checkpoint_is_judged_by_the_command_with_its_decoder_in_the_report(tmp_path, capsys):
    place, folder = stand_in_environment(tmp_path / "libero"), saved(tmp_path / "student")
    words = ["--checkpoint", str(folder), "--suite", "libero_object", "--libero", str(place), "--episodes", "1"]
    report = tmp_path / "report.json"
    assert cli.main(["eval", *words, "--plan", "0", "--out", str(tmp_path / "run"), "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["checkpoint"].startswith("student@") and found["outcomes"] == [0] and found["mean_steps"] == 280
    assert found["layers_executed_mean"] == 1 and found["decoder_flops_share"] == 0.5 and found["decoder_ms"]["p50"] > 0


@pytest.fixture(scope="module")
def openvla(tmp_path_factory):
    """OpenVLA's layout with random weights and the statistics of two suites' fine-tunes."""
    folder = maker.write_folder(tmp_path_factory.mktemp("libero") / "openvla-libero", TINY)
    suites = ("libero_spatial_no_noops", "libero_goal")
    edit_json(folder / "config.json", lambda body: {**body, "norm_stats": maker.statistics(suites)})
    return folder


@pytest.mark.parametrize("suite", ["libero_spatial", "libero_goal"])
def test_an_openvla_acts_on_libero_with_nothing_told_but_the_suite(openvla, suite):
    with np.load(ROOT / "test" / "data" / "libero" / "tensorflow.npz") as recorded:
        shown = look(recorded["frame"])
    runtime = candidate.planned(vla.load(openvla, suite), None, "0", 0)
    decision = policies.RuntimePolicy(runtime, preprocess.view).act(shown)
    assert decision.actions.shape == (1, 7) and np.abs(decision.actions).max() <= 1
    assert decision.executed[0] and not any(decision.executed[1:])
    assert runtime.contract.statistics_key.removesuffix("_no_noops") == suite


def test_an_openvla_of_other_suites_or_with_other_layers_is_refused(openvla):
    with pytest.raises(
        ContractError, match="no statistics 'libero_10'; valid keys: libero_goal, libero_spatial_no_noops"
    ):
        vla.load(openvla, "libero_10")
    whole = vla.load(openvla, "libero_goal")
    with pytest.raises(ContractError, match="has no router and runs the same 1 of its decoder .* budget 0.1 cannot be"):
        candidate.planned(whole, 0.1, "router", 0)
    with pytest.raises(ContractError, match="--plan 0 runs 0.25 of the decoder .* --budget 0.5 cannot be met"):
        candidate.planned(whole, 0.5, "0", 0)


def test_a_student_runs_what_its_router_chooses_within_the_budget(openvla, tmp_path):
    teacher = deployed(openvla, tmp_path / "teacher", statistics="libero_goal")
    router = listening_router(published.load(teacher, "libero_goal", dtype="float32"))
    student_folder.save(tmp_path / "student", teacher, {}, router, 0.75)
    runtime = vla.load(tmp_path / "student", "libero_goal")
    assert policies.RuntimePolicy(runtime, preprocess.view).act(look()).budget == 0.75
    decision = policies.RuntimePolicy(candidate.planned(runtime, 0.5, "router", 0), preprocess.view).act(look())
    assert decision.budget == 0.5 and list(decision.executed) == [True, False, False, True]


def test_the_script_reads_the_objects_and_nothing_else():
    script = Scripted()
    script.begin("put the bowl on the plate")
    action = script.act(look(np.zeros((2, 2, 3), dtype=np.uint8))).actions
    assert action.shape == (1, 7) and action[0, 6] == -1 and action[0, 0] == 1 and action[0, 1] == 1
    assert protocol.still()[6] == action[0, 6]
