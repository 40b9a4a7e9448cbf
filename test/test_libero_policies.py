"""What a policy is shown of LIBERO and what becomes of its actions there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from libero_parts import stand_in_environment
from vla_parts import TINY, deployed, edit_json, listening_router, maker, tool

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
    runtime = candidate.planned(vla.load(openvla, suite)[0], None, "0", 0)
    decision = policies.RuntimePolicy(runtime, preprocess.view).act(shown)
    assert decision.actions.shape == (1, 7) and np.abs(decision.actions).max() <= 1
    assert decision.executed[0] and not any(decision.executed[1:])
    assert runtime.contract.statistics_key.removesuffix("_no_noops") == suite


def test_an_openvla_of_other_suites_or_with_other_layers_is_refused(openvla):
    with pytest.raises(
        ContractError,
        match="no statistics 'libero_10'; valid keys: libero_goal, libero_spatial_no_noops.* give a fine-tune",
    ):
        vla.load(openvla, "libero_10")
    whole, _, _ = vla.load(openvla, "libero_goal")
    with pytest.raises(ContractError, match="has no router and runs the same 1 of its decoder .* budget 0.1 cannot be"):
        candidate.planned(whole, 0.1, "router", 0)
    with pytest.raises(ContractError, match="--plan 0 runs 0.25 of the decoder .* --budget 0.5 cannot be met"):
        candidate.planned(whole, 0.5, "0", 0)


def test_a_student_runs_what_its_router_chooses_within_the_budget(openvla, tmp_path):
    teacher = deployed(openvla, tmp_path / "teacher", statistics="libero_goal", period_s=0.05)
    router = listening_router(published.load(teacher, "libero_goal", dtype="float32"))
    student_folder.save(tmp_path / "student", teacher, {}, router, 0.75)
    runtime, _, _ = vla.load(tmp_path / "student", "libero_goal")
    assert policies.RuntimePolicy(runtime, preprocess.view).act(look()).budget == 0.75
    decision = policies.RuntimePolicy(candidate.planned(runtime, 0.5, "router", 0), preprocess.view).act(look())
    assert decision.budget == 0.5 and list(decision.executed) == [True, False, False, True]


def on_libero(folder: Path, to: Path, **more) -> Path:
    """A copy whose deployment.json says what LIBERO's data are."""
    return deployed(folder, to, **{"statistics": "libero_goal", "period_s": 0.05, "crop_area": 0.9} | more)


def test_what_its_deployment_says_of_computing_holds_on_libero_too(openvla, tmp_path):
    told = on_libero(openvla, tmp_path / "told", dtype="int8", layers=[0, 3])
    policy, prepare, _ = vla.load(told, "libero_goal")
    assert list(policies.RuntimePolicy(policy, prepare).act(look()).executed) == [True, False, False, True]
    assert any(t.dtype == torch.int8 for t in policy._checkpoint.model.state_dict().values())
    whole, _, _ = vla.load(on_libero(openvla, tmp_path / "whole", dtype="float32"), "libero_goal")
    assert {t.dtype for t in whole._checkpoint.model.state_dict().values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("area", "cropped"), [(0.9, True), (1.0, False)])
def test_pictures_are_cropped_only_for_who_was_trained_on_crops(openvla, tmp_path, area, cropped):
    _, prepare, _ = vla.load(on_libero(openvla, tmp_path / "told", crop_area=area), "libero_goal")
    frame = look().images["agentview"]
    assert np.array_equal(prepare(frame), preprocess.view(frame, cropped))
    assert not np.array_equal(prepare(frame), preprocess.view(frame, not cropped))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"period_s": 0.2}, "period_s is 0.2; LIBERO acts every 0.05 s"),
        ({"crop_area": 0.8}, "crop_area is 0.8; LIBERO's pictures are cropped to 0.9"),
        ({"statistics": "libero_spatial_no_noops"}, "statistics are libero_spatial_no_noops, so its actions are not"),
        ({"layers": [4]}, r"expected one or more of 0 … 3"),
        ({"execute": 2}, "OpenVLA makes one action per step"),
    ],
)
def test_a_deployment_that_is_not_liberos_is_refused_by_what_it_says(openvla, tmp_path, more, words):
    with pytest.raises(ContractError, match=words):
        vla.load(on_libero(openvla, tmp_path / "told", **more), "libero_goal")


@pytest.fixture(scope="module")
def cogact(tmp_path_factory):
    """CogACT's layout with random weights and LIBERO's statistics."""
    folder = tool("reference_cogact_vla").write_checkpoint(tmp_path_factory.mktemp("libero") / "run")
    edit_json(folder / "dataset_statistics.json", lambda _: maker.statistics(("libero_goal",)))
    return folder


def test_a_cogact_acts_on_libero_in_chunks_and_the_report_says_that_no_protocol_was_published(cogact, tmp_path, capsys):
    folder = on_libero(cogact, tmp_path / "cogact", execute=3)
    policy, prepare, whose = vla.load(folder, "libero_goal")
    decision = policies.RuntimePolicy(policy, prepare, whose).act(look())
    assert decision.actions.shape == (3, 7) and np.isfinite(decision.actions).all()
    place, report = stand_in_environment(tmp_path / "libero"), tmp_path / "report.json"
    words = ["--checkpoint", str(folder), "--suite", "libero_goal", "--libero", str(place), "--episodes", "1"]
    assert cli.main(["eval", *words, "--out", str(tmp_path / "run"), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["protocol"] == whose and "none was published for CogACT" in whose
    assert f"protocol: {whose}" in capsys.readouterr().out
    with pytest.raises(ContractError, match="no statistics 'libero_10'.* give a fine-tune on libero_10"):
        vla.load(folder, "libero_10")


def test_a_cogact_that_averages_its_chunks_acts_step_by_step_and_forgets_them_with_the_episode(cogact, tmp_path):
    folders = {n: on_libero(cogact, tmp_path / str(n), **({"ensemble": n} if n else {})) for n in (None, 1, 3)}

    def acted(chunks: int | None) -> list[np.ndarray]:
        policy = policies.RuntimePolicy(*vla.load(folders[chunks], "libero_goal"))
        torch.manual_seed(5)
        found = []
        for _ in range(2):
            policy.begin("open the drawer")
            found += [policy.act(look()).actions for _ in range(3)]
        return found

    alone, latest, averaged = acted(None), acted(1), acted(3)
    assert {actions.shape for actions in averaged} == {(1, 7)}
    for step in range(6):  # the first of an episode has nothing to be averaged with
        np.testing.assert_allclose(latest[step][0], alone[step][0])
        assert np.allclose(averaged[step][0], alone[step][0]) == (step in (0, 3))


def test_a_published_student_is_judged_by_the_command_within_its_budget(openvla, tmp_path):
    teacher = on_libero(openvla, tmp_path / "teacher", dtype="float32")
    router = listening_router(published.load(teacher, "libero_goal", dtype="float32"))
    student_folder.save(tmp_path / "student", teacher, {}, router, 0.75)
    place, report = stand_in_environment(tmp_path / "libero"), tmp_path / "report.json"
    words = ["--checkpoint", str(tmp_path / "student"), "--suite", "libero_goal", "--libero", str(place)]
    words += ["--episodes", "1", "--budget", "0.5", "--out", str(tmp_path / "run"), "--json", str(report)]
    assert cli.main(["eval", *words]) == 0
    found = json.loads(report.read_text())
    assert found["layers_executed_mean"] == 2 and found["protocol"] == "OpenVLA's" and found["budget_asked"] == 0.5


def test_a_run_does_not_go_on_under_another_deployment_of_the_same_weights(openvla, tmp_path, capsys):
    place, folder = stand_in_environment(tmp_path / "libero"), on_libero(openvla, tmp_path / "told", layers=[0])
    words = ["eval", "--checkpoint", str(folder), "--suite", "libero_goal", "--libero", str(place), "--episodes", "1"]
    words += ["--out", str(tmp_path / "run"), "--json", str(tmp_path / "report.json")]
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "report.json").read_text())["deployment"]["layers"] == [0]
    edit_json(folder / "deployment.json", lambda body: body | {"frame": [192, 192]})  # an arm's, not heeded here
    assert cli.main(words) == 0
    edit_json(folder / "deployment.json", lambda body: body | {"layers": [1]})
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "is of another run: deployment" in said and "'layers': [1]" in said and "Give another --out" in said


def test_the_script_reads_the_objects_and_nothing_else():
    script = Scripted()
    script.begin("put the bowl on the plate")
    action = script.act(look(np.zeros((2, 2, 3), dtype=np.uint8))).actions
    assert action.shape == (1, 7) and action[0, 6] == -1 and action[0, 0] == 1 and action[0, 1] == 1
    assert protocol.still()[6] == action[0, 6]
