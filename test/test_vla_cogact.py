"""CogACT runs: loaded, compared with the original code's answers (tools/reference_cogact_vla.py), or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from vla_parts import edit_json, linked_copy, tool

from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import loading
from actdistill_ros.policy.planning import FixedPlan, Plan
from actdistill_ros.policy.vla import cogact_checkpoint
from actdistill_ros.policy.vla.cogact import actions_of
from actdistill_ros.policy.vla.cogact_policy import CogACTSettings, make
from actdistill_ros.policy.vla.ensemble import WIDOWX, AdaptiveEnsemble

tool("make_vla_checkpoint")
openvla = tool("reference_openvla")
tool("reference_cogact")
reference = tool("reference_cogact_vla")
BAR = 1e-4
CASES = [(case, plan) for case in range(len(openvla.INSTRUCTIONS)) for plan in reference.PLANS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return reference.write_checkpoint(tmp_path_factory.mktemp("cogact") / "run-tiny")


@pytest.fixture(scope="module")
def loaded(run):
    return cogact_checkpoint.load(run, dtype="float32")


@pytest.fixture(scope="module")
def said():
    with np.load(Path(__file__).parent / "data" / "cogact" / "vla.npz") as found:
        return {name: found[name] for name in found.files}


def observation(case=0, camera="front", instruction=None):
    pose = ArmPose(np.array([0.3, 0.0, 0.2]), np.eye(3))
    words = openvla.INSTRUCTIONS[case] if instruction is None else instruction
    return Observation({camera: openvla.frames()[case]}, pose, 1.0, words, stamp_s=12.5)


def settings(**other):
    return CogACTSettings(**{"camera": "front", "frame": (480, 640), "period_s": 0.2, "execute": 4} | other)


def executed(plan):
    return [layer in reference.PLANS[plan] for layer in range(4)]


def cognition(loaded, case, plan):
    ids = torch.tensor([loaded.reader.cognition_prompt(openvla.INSTRUCTIONS[case])])
    with torch.no_grad():
        tokens = loaded.model.vlm.embed_inputs(loaded.vision.pixels(openvla.frames()[case]), ids)
        return loaded.model.cognition(tokens, executed(plan))


@pytest.mark.parametrize("case, plan", CASES)
def test_the_cognition_feature_is_the_originals_with_all_layers_and_without_some(loaded, said, case, plan):
    assert np.abs(cognition(loaded, case, plan).numpy()[0] - said[f"{case}.{plan}.cognition"]).max() <= BAR


@pytest.mark.parametrize("case, plan", CASES)
def test_samples_and_actions_from_pixels_and_words_are_the_originals(loaded, said, case, plan):
    noise = torch.from_numpy(said[f"{case}.{plan}.noise"])[None]
    sampled = loaded.model.denoise(cognition(loaded, case, plan), noise)[0].numpy()
    assert np.abs(sampled - said[f"{case}.{plan}.sample"]).max() <= BAR
    actions = actions_of(sampled, loaded.active_statistics)
    assert np.abs(actions - said[f"{case}.{plan}.actions"]).max() <= BAR


def test_the_gripper_is_decided_on_the_normalised_value_and_never_unnormalised(loaded):
    sampled = np.zeros((3, 7))
    sampled[:, 6] = 0.49, 0.5, 7.0
    assert actions_of(sampled, loaded.active_statistics)[:, 6].tolist() == [0.0, 1.0, 1.0]


def test_values_beyond_the_range_of_the_data_are_clipped_to_it(loaded):
    statistics = loaded.active_statistics
    actions = actions_of(np.array([[9.0, -9.0, 0, 0, 0, 0, 0]]), statistics)
    assert np.allclose(actions[0, :2], [statistics.q99[0], statistics.q01[1]])


def test_a_step_makes_sixteen_actions_in_metres_and_rotation_vectors(loaded):
    result = make(loaded, settings()).step(observation())
    assert result.chunk.actions.shape == (16, 7)
    assert (result.chunk.execute, result.chunk.period_s, result.chunk.stamp_s) == (4, 0.2, 12.5)
    assert np.abs(result.chunk.actions[:, :3]).max() <= 0.0418
    assert set(result.chunk.actions[:, 6]) <= {0.0, 1.0}
    assert result.executed.all() and result.compute_share == result.budget == 1.0
    assert sum(v for k, v in result.latency_ms.items() if k != "step") == pytest.approx(result.latency_ms["step"])


def test_a_step_says_what_the_declared_convention_makes_of_the_models_own_actions(loaded):
    result = make(loaded, settings(seed=3)).step(observation())
    noise = torch.randn(1, 16, 7, generator=torch.Generator().manual_seed(3))
    sampled = loaded.model.denoise(cognition(loaded, 0, "all"), noise)[0].numpy()
    expected = convention("bridge_orig").to_product(actions_of(sampled, loaded.active_statistics))
    assert np.allclose(result.chunk.actions, expected, atol=1e-6)


def test_the_policy_says_what_it_promises_and_keeps_to_it(loaded):
    policy = make(loaded, settings())
    promised = policy.contract
    assert [(c.name, c.size, c.source_height, c.source_width) for c in promised.cameras] == [("front", 224, 480, 640)]
    assert (promised.action.chunk, promised.action.execute, promised.statistics_key) == (16, 4, "bridge_orig")
    assert promised.action.translation_limit_m == pytest.approx(np.linalg.norm([0.0287, 0.0417, 0.0402]))
    assert promised.action.rotation_limit_rad == pytest.approx(0.0819 + 0.0929 + 0.2072)
    actions = policy.step(observation()).chunk.actions
    assert np.linalg.norm(actions[:, :3], axis=1).max() <= promised.action.translation_limit_m + 1e-9
    assert np.linalg.norm(actions[:, 3:6], axis=1).max() <= promised.action.rotation_limit_rad + 1e-9


def test_a_plan_leaves_layers_out_of_the_step(loaded):
    class Chosen:
        budget = 0.5

        def __call__(self, evidence):
            return Plan((1.0, 0.2, 0.1, 1.0), tuple(executed("ends")))

    result = make(loaded, settings(), Chosen()).step(observation())
    whole = make(loaded, settings()).step(observation())
    assert result.executed.tolist() == executed("ends") and result.compute_share == result.budget == 0.5
    assert np.allclose(result.gates, [1.0, 0.2, 0.1, 1.0])
    assert not np.allclose(result.chunk.actions, whole.chunk.actions)


def test_the_same_seed_says_the_same_and_reset_begins_anew(loaded):
    policy = make(loaded, settings())
    first, second = policy.step(observation()).chunk.actions, policy.step(observation()).chunk.actions
    policy.reset()
    assert np.array_equal(policy.step(observation()).chunk.actions, first)
    assert not np.array_equal(first, second)


def test_with_an_ensemble_a_step_is_the_average_of_what_chunks_say_of_it(loaded):
    policy = make(loaded, settings(execute=1, ensemble=WIDOWX))
    made = [policy.step(observation()).chunk.actions for _ in range(3)]
    assert all(actions.shape == (1, 7) for actions in made)
    ensemble, noise = AdaptiveEnsemble(WIDOWX), torch.Generator().manual_seed(0)
    for actions in made:
        sampled = loaded.model.denoise(cognition(loaded, 0, "all"), torch.randn(1, 16, 7, generator=noise))[0]
        mean = ensemble(actions_of(sampled.numpy(), loaded.active_statistics))
        assert np.allclose(actions, convention("bridge_orig").to_product(mean[None]), atol=1e-6)


def test_an_ensemble_forgets_when_the_instruction_changes(loaded):
    policy = make(loaded, settings(execute=1, ensemble=WIDOWX))
    policy.step(observation())
    fresh = make(loaded, settings(execute=1, ensemble=WIDOWX))
    fresh.step(observation(instruction="close the drawer"))
    other = "open the door"
    assert np.array_equal(
        policy.step(observation(instruction=other)).chunk.actions,
        fresh.step(observation(instruction=other)).chunk.actions,
    )


@pytest.mark.parametrize("later_s, remembered", [(0.2, True), (0.39, True), (0.5, False), (-0.1, False)])
def test_an_ensemble_forgets_what_was_said_before_a_pause(loaded, later_s, remembered):
    policy, noise = make(loaded, settings(execute=1, ensemble=WIDOWX)), torch.Generator().manual_seed(0)
    policy.step(observation())
    second = policy.step(replace(observation(), stamp_s=12.5 + later_s)).chunk.actions
    sampled = [loaded.model.denoise(cognition(loaded, 0, "all"), torch.randn(1, 16, 7, generator=noise)) for _ in "ab"]
    alone = actions_of(sampled[1][0].numpy(), loaded.active_statistics)[:1]
    assert np.allclose(second, convention("bridge_orig").to_product(alone), atol=1e-6) != remembered


def test_the_head_stays_in_float32_beside_a_model_in_half_precision(run):
    half = cogact_checkpoint.load(run, dtype="bfloat16")
    assert half.model.vlm.embed.weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in half.model.head.parameters())
    assert np.isfinite(make(half, settings()).step(observation()).chunk.actions).all()


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"execute": 17}, "chunks of 16 actions; execute 17"),
        ({"ensemble": WIDOWX}, "set execute to 1, not 4"),
        ({"period_s": 0.0}, "above 0"),
        ({"sampling_steps": 30}, "cannot be walked in 30"),
    ],
)
def test_settings_that_do_not_fit_are_refused(loaded, wrong, text):
    with pytest.raises(ContractError, match=text):
        make(loaded, settings(**wrong))


def test_a_missing_camera_is_named(loaded):
    with pytest.raises(ContractError, match="needs camera front; the observation has wrist"):
        make(loaded, settings()).step(observation(camera="wrist"))


def deployed(run, tmp_path, **told):
    folder = linked_copy(run, tmp_path / "run")
    body = {"camera": "front", "frame": [480, 640], "period_s": 0.2, "dtype": "float32"} | told
    (folder / "deployment.json").write_text(json.dumps(body))
    return loading.load(folder)


def test_a_deployed_run_is_a_policy_like_any_other(loaded, run, tmp_path):
    policy = deployed(run, tmp_path, layers=[0, 3], execute=4)
    result = policy.step(observation())
    direct = make(loaded, settings(), FixedPlan(executed("ends")))
    assert np.array_equal(result.chunk.actions, direct.step(observation()).chunk.actions)
    assert policy.budget == result.compute_share == 0.5 and policy.contract.action.execute == 4


def test_a_deployed_run_may_average_chunks(run, tmp_path):
    policy = deployed(run, tmp_path, ensemble=7)
    assert policy.step(observation()).chunk.actions.shape == (1, 7) == (policy.contract.action.chunk, 7)


def changed(run, tmp_path, change):
    """A copy of the run whose tensors `change` alters."""
    folder = linked_copy(run, tmp_path / "run")
    file = next((folder / "checkpoints").glob("*.pt"))
    body = torch.load(file, weights_only=True)
    change(body["model"])
    file.unlink()
    torch.save(body, file)
    return folder


def without(name):
    return lambda model: model["action_model"].pop(name)


def replaced(name, *shape):
    return lambda model: model["action_model"].__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    "change, text",
    [
        (without("net.blocks.3.attn.qkv.bias"), r"net.blocks.3.attn.qkv.bias is missing, expected \(1152,\)"),
        (without("net.x_embedder.linear.weight"), r"net.x_embedder.linear.weight is missing, expected \(384, 7\)"),
        (replaced("net.blocks.6.mlp.fc1.bias", 1536), r"net.blocks.6.mlp.fc1.bias \(1536,\) is no part of this model"),
        (replaced("net.z_embedder.uncondition", 1, 4096), r"\(1, 4096\), expected \(1, 64\)"),
        (replaced("net.x_embedder.linear.weight", 384, 14), "actions of 14 values, this arm takes 7"),
        (replaced("net.x_embedder.linear.weight", 500, 7), r"6 blocks of width 500; the known heads are DiT-S \(6 of"),
        (lambda model: model.pop("action_model"), "holds no action_model"),
        (lambda model: model.__setitem__("value_head", {"w": torch.zeros(1)}), "value_head is no part of a CogACT"),
        (lambda model: model.__setitem__("step", 3), "step is no part of a CogACT"),
        (lambda model: model["projector"].pop("projector.2.bias"), r"projector.fc2.bias is missing, expected \(64,\)"),
        (lambda model: model["action_model"]["net.t_embedder.mlp.0.bias"].fill_(np.nan), "mlp.0.bias is not finite"),
    ],
)  # fmt: skip
def test_a_head_that_is_not_the_published_one_is_refused_tensor_by_tensor(run, tmp_path, change, text):
    with pytest.raises(ContractError, match=text):
        cogact_checkpoint.load(changed(run, tmp_path, change), dtype="float32")


def test_an_averaged_copy_of_the_head_may_be_in_the_file(run, tmp_path):
    folder = changed(run, tmp_path, lambda model: model.__setitem__("ema_diffusion", dict(model["action_model"])))
    assert cogact_checkpoint.load(folder, dtype="float32").model.head.shape.depth == 6


def test_a_head_of_another_size_than_wanted_is_refused_and_its_own_size_said(run):
    with pytest.raises(ContractError, match=r"action_model as DiT-B: .*The head's own size is DiT-S"):
        cogact_checkpoint.load(run, head="DiT-B")
    with pytest.raises(ContractError, match="'DiT-XL'; expected one of DiT-S, DiT-B, DiT-L"):
        cogact_checkpoint.load(run, head="DiT-XL")


def test_two_checkpoints_in_a_run_have_to_be_told_apart(run, tmp_path):
    folder = linked_copy(run, tmp_path / "run")
    first = next((folder / "checkpoints").glob("*.pt"))
    (folder / "checkpoints" / "other.pt").hardlink_to(first)
    with pytest.raises(ContractError, match=r"must hold one .pt file, found other.pt, step-"):
        cogact_checkpoint.load(folder)
    assert cogact_checkpoint.load(first, dtype="float32").statistics_key == "bridge_orig"


def test_statistics_have_to_be_named_among_several_and_unknown_ones_are_refused(run, tmp_path):
    folder = linked_copy(run, tmp_path / "run")
    edit_json(folder / "dataset_statistics.json", lambda body: body | {"fractal20220817_data": body["bridge_orig"]})
    with pytest.raises(ContractError, match="name one of bridge_orig, fractal20220817_data"):
        cogact_checkpoint.load(folder)
    with pytest.raises(ContractError, match="no statistics 'libero'; valid keys: bridge_orig, fractal20220817_data"):
        cogact_checkpoint.load(folder, "libero")


def test_statistics_of_another_robot_are_refused(run, tmp_path):
    folder = linked_copy(run, tmp_path / "run")
    aloha = {"action": {"q01": [0.0] * 14, "q99": [1.0] * 14, "mask": [True] * 14}}
    edit_json(folder / "dataset_statistics.json", lambda body: {"aloha": aloha})
    with pytest.raises(ContractError, match="14 dimensions, this arm takes 7"):
        cogact_checkpoint.load(folder)


def test_a_data_set_without_a_declared_convention_moves_nothing_until_one_is_named(run, tmp_path):
    folder = linked_copy(run, tmp_path / "run")
    edit_json(folder / "dataset_statistics.json", lambda body: {"my_kitchen": body["bridge_orig"]})
    mine = cogact_checkpoint.load(folder, dtype="float32")
    with pytest.raises(ContractError, match="'my_kitchen'.*Name the action space yourself"):
        make(mine, settings())
    named = make(mine, settings(convention=convention("product")))
    assert named.step(observation()).chunk.actions.shape == (16, 7)


def test_too_little_memory_is_refused_before_a_weight_is_read(run):
    with pytest.raises(ContractError, match="GiB free"):
        cogact_checkpoint.load(run, available=45 << 20)


def test_a_file_that_is_cut_short_is_refused(run, tmp_path):
    folder = linked_copy(run, tmp_path / "run")
    file = next((folder / "checkpoints").glob("*.pt"))
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match="cannot be read as tensors"):
        cogact_checkpoint.load(folder)


def test_a_folder_of_safetensors_is_no_cogact_run(tmp_path):
    from vla_parts import TINY, maker

    with pytest.raises(ContractError, match="has no checkpoints/NAME.pt"):
        cogact_checkpoint.load(maker.write_folder(tmp_path / "openvla", TINY))
