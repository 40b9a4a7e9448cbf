"""The decoder's linear layers in eight or four bits: what is computed, what a load takes, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from vla_parts import TINY, TOOLS, frame, hf_folder, linked_copy, maker, run_folder  # noqa: F401

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose, Observation
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import checkpoint, quantised, weights
from actdistill_ros.policy.vla.openvla import unfilled
from actdistill_ros.policy.vla.quantised import Int4Linear, Int8Linear

LINEAR = {"int8": Int8Linear, "int4": Int4Linear}
OFF = {"int8": 0.01, "int4": 0.08}
"""Largest part of a layer's answer that rounding its weights may change, for normally distributed ones."""


def weight(rows: int = 160, columns: int = 96) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02


def made(kind: str, w: Tensor, step: int = 0) -> Int8Linear | Int4Linear:
    """step: rows that come at a time; 0: all."""
    parts = ((slice(i, i + (step or len(w))), w[i : i + (step or len(w))]) for i in range(0, len(w), step or len(w)))
    return LINEAR[kind].of(parts, tuple(w.shape), torch.bfloat16, "cpu")


def tokens(count: int, width: int = 96) -> Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(1)).bfloat16()


# -- one layer
@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("count", (1, 8, 9, 40))
def test_a_layer_answers_as_its_weights_do_but_for_their_rounding(kind, count):
    expected = functional.linear(tokens(count).float(), weight())
    found = made(kind, weight())(tokens(count))
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    assert (found.float() - expected).norm() / expected.norm() < OFF[kind]


@pytest.mark.parametrize("kind", LINEAR)
def test_rows_that_are_zero_or_all_alike_stay_what_they_are(kind):
    w = weight()
    w[3], w[5] = 0.0, 0.25
    found = made(kind, w)(tokens(1))[0, 0]
    assert found[3] == 0.0
    assert torch.isclose(found[5].float(), 0.25 * tokens(1).float().sum(), rtol=0.02)


@pytest.mark.parametrize("kind", LINEAR)
def test_weights_that_come_in_pieces_become_the_same(kind):
    whole, pieces = made(kind, weight()), made(kind, weight(), step=50)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))


def test_four_bits_that_are_packed_a_few_rows_at_a_time_are_packed_alike(monkeypatch):
    whole = made("int4", weight(304, 96))
    monkeypatch.setattr(quantised, "_PIECE", 1)
    pieces = made("int4", weight(304, 96))
    assert torch.equal(whole.packed, pieces.packed) and torch.equal(whole(tokens(3)), pieces(tokens(3)))


@pytest.mark.parametrize("kind", LINEAR)
def test_what_a_layer_takes_is_what_the_estimate_says(kind):
    held, w = made(kind, weight(256, 2048)), weight(256, 2048)
    assert sum(p.nbytes for p in held.parameters()) == pytest.approx(w.numel() * LINEAR[kind].BITS / 8, rel=0.01)


def test_weights_that_are_read_from_a_file_are_left_alone():
    w = weight()
    before = w.clone()
    made("int8", w)
    made("int4", w)
    assert torch.equal(w, before)


# -- a checkpoint
@pytest.fixture(scope="module")
def loaded(hf_folder):  # noqa: F811
    return {dtype: checkpoint.load(hf_folder, dtype=dtype).model for dtype in ("bfloat16", *LINEAR)}


@pytest.mark.parametrize("kind", LINEAR)
def test_the_decoders_linear_layers_are_held_so_and_nothing_else(loaded, kind):
    named = dict(loaded[kind].named_modules())
    linear = {name for name, module in named.items() if isinstance(module, LINEAR[kind])}
    assert len(linear) == 7 * TINY.layers and all(name.startswith("vlm.decoder.layers.") for name in linear)
    others = {name: p for name, p in loaded[kind].named_parameters() if name.rpartition(".")[0] not in linear}
    for name, parameter in others.items():
        assert torch.equal(parameter, loaded["bfloat16"].get_parameter(name)), name


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.03), ("int4", 0.3)])
def test_logits_are_nearly_those_of_bfloat16(loaded, kind, share):
    given = tokens(20, TINY.width)
    with torch.inference_mode():
        expected, found = (m.lm_head(m.vlm.decoder(given, None)).float() for m in (loaded["bfloat16"], loaded[kind]))
        assert 0 < (found - expected).norm() / expected.norm() < share


@pytest.mark.parametrize("kind", LINEAR)
def test_words_with_a_cache_are_those_without_under_every_plan_tried(loaded, kind):
    """One token at a time goes through other kernels than a prompt, so near ties may fall otherwise; here none does."""
    model = loaded[kind]
    for plan in ([True] * 4, [True, False, True, True], [True, False, False, True]):
        given = tokens(12, TINY.width)
        with torch.inference_mode():
            said = model.speak(given, plan, 4)
            for word in said:
                assert int(model.lm_head(model.vlm.decoder(given, None, plan)[:, -1]).argmax()) == word
                given = torch.cat([given, model.vlm.embed(torch.tensor([[word]]))], dim=1)


def test_both_layouts_become_the_same_eight_bits(run_folder, loaded):  # noqa: F811
    other = checkpoint.load(run_folder, dtype="int8").model.state_dict()
    state = loaded["int8"].state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_deployment_may_ask_for_it(hf_folder, tmp_path, kind):  # noqa: F811
    copy = linked_copy(hf_folder, tmp_path / "vla")
    told = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": kind}
    (copy / "deployment.json").write_text(json.dumps(told))
    seen = Observation({"front": frame()}, ArmPose(np.array([0.3, 0.0, 0.1]), np.eye(3)), 1.0, "Close the drawer", 7.0)
    assert np.isfinite(loading.load(copy).step(seen).chunk.actions).all()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return maker.write_folder(tmp_path_factory.mktemp("vla") / "small", maker.SIZES["small"], dtype="bfloat16")


@pytest.mark.parametrize(("kind", "bytes_"), [("int8", 1.3e8), ("int4", 1.2e8)])
def test_loading_holds_little_beside_such_weights(small, kind, bytes_):
    """In a process of its own. What lies beside them does not grow with their number: a part of a tensor, and the
    libraries that a load is the first to use."""
    command = [sys.executable, str(TOOLS / "measure_vla_load.py"), str(small), "--dtype", kind]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 1e8 < found["weights_bytes"] < bytes_
    assert found["peak_bytes"] - found["before_bytes"] - found["weights_bytes"] < 64 << 20


# -- what is refused
def test_four_bits_on_a_gpu_are_refused(hf_folder):  # noqa: F811
    with pytest.raises(ContractError, match="int4 weights run on the CPU only, not on cuda; take int8 or bfloat16"):
        weights.check_memory(_unfilled(hf_folder), weights.held_as("int4"), "cuda", available=1 << 40)
    weights.check_memory(_unfilled(hf_folder), weights.held_as("int8"), "cuda", available=1 << 40)


def test_layers_that_four_bits_do_not_fit_are_refused_by_their_size():
    with pytest.raises(ContractError, match="100 × 96 cannot be kept as int4, whose rows go by 16 and columns by 32"):
        quantised.check("int4", [(96, 64), (100, 96)], "cpu")


def test_a_torch_without_the_kernels_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(quantised, "_INT4_KERNELS", ("_no_such_kernel",))
    with pytest.raises(ContractError, match="has no _no_such_kernel, which int4 needs; take int8"):
        quantised.check("int4", [(96, 64)], "cpu")


def test_memory_is_checked_for_what_will_be_held(hf_folder):  # noqa: F811
    model = _unfilled(hf_folder)
    linear = sum(p.numel() for n, p in model.named_parameters() if "decoder.layers" in n and p.dim() == 2)
    others = sum(p.numel() for p in model.parameters()) - linear
    enough = int(1.06 * (linear * 1 + others * 2))
    weights.check_memory(model, weights.held_as("int8"), "cpu", enough)
    with pytest.raises(ContractError, match="as bfloat16, cpu has .* take bfloat16 or int8"):
        weights.check_memory(model, weights.held_as("bfloat16"), "cpu", enough)


def test_a_number_that_is_not_finite_is_named_in_eight_bits_too(hf_folder, monkeypatch):  # noqa: F811
    model = _unfilled(hf_folder)
    broken = "language_model.model.layers.1.mlp.up_proj.weight"
    source = _Spoilt(checkpoint.open_source(checkpoint.layout.read(hf_folder)), broken)
    with pytest.raises(ContractError, match=f"{broken} is not finite"):
        weights.fill(model, source, weights.held_as("int8"), "cpu")


class _Spoilt:
    """A source with one number of one tensor replaced."""

    def __init__(self, source, name: str) -> None:
        self._source, self._name, self.where = source, name, source.where

    def parts(self, name: str):
        for rows, part in self._source.parts(name):
            if name == self._name:
                part[0, 0] = float("nan")
            yield rows, part


def _unfilled(folder: Path):
    return unfilled(checkpoint.layout.read(folder).shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_eight_bits_on_a_gpu_answer_as_on_the_cpu():
    on_gpu = made("int8", weight()).cuda()
    on_gpu._kernel = None
    assert torch.allclose(on_gpu(tokens(4).cuda()).cpu(), made("int8", weight())(tokens(4)), atol=0.02, rtol=0.02)
