"""A policy's step as two ONNX graphs: what comes before the plan, and the decoder under any plan with the head. One
sentence, nothing padded.

What is the same in every step of a task (FiLM, word tokens, questions) is an input, computed once by
`instruction_inputs`.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from actdistill_ros.policy.model import Policy, Told
from actdistill_ros.policy.router import Router
from actdistill_ros.policy.vision import PATCH, SHARPNESS, FiLMBlock, ImageEncoder

OPSET, IR = 20, 10  # what onnxruntime has known since 1.17
FILMS = 6  # of a camera: scale and shift of the fine block, of the coarse one and of the features
PLAN = "plan"


class Graph:
    """Nodes and weights in the order in which they were added. `prefix` keeps names apart between subgraphs."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix, self._nodes, self._weights = prefix, [], []

    def add(self, kind: str, *inputs: str | np.ndarray | Tensor, outputs: int = 1, **attributes):
        """Name of the node's output, or a list of them. Inputs that are no names become weights."""
        names = [given if isinstance(given, str) else self.weight(given) for given in inputs]
        made = [f"{self._prefix}{kind}{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, names, made, **attributes))
        return made[0] if outputs == 1 else made

    def weight(self, values: np.ndarray | Tensor) -> str:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        name = f"{self._prefix}weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def body(self, output: str) -> onnx.GraphProto:
        """As a branch, which sees the names of the graph around it."""
        return helper.make_graph(self._nodes, self._prefix, [], [_value(output, None)], self._weights)

    def model(self, inputs: list[onnx.ValueInfoProto], *outputs: str) -> bytes:
        graph = helper.make_graph(self._nodes, "step", inputs, [_value(o, None) for o in outputs], self._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString()


@torch.no_grad()
def encoders(model: Policy, routed: bool) -> bytes:
    """Inputs: those of `instruction_inputs`, one (S, S, 3) uint8 image per camera by its name, `pose` (1, 11); if
    routed by recent actions, `recent` (1, R, A + 1). Outputs: tokens (N, D); if routed, `Router.evidence` of them,
    (1, L)."""
    config, graph = model.config, Graph()
    widths = [width for name in config.cameras for width in _film_widths(model.encoders[name])]
    films = graph.add("Split", "films", _ints(*widths), outputs=len(widths), axis=1)
    inputs, looks = [_value("films", [1, sum(widths), 1, 1])], []
    for i, name in enumerate(config.cameras):
        inputs.append(_value(name, [config.image_size, config.image_size, 3], TensorProto.UINT8))
        seen = _encoder(graph, model.encoders[name], name, films[FILMS * i : FILMS * (i + 1)], config.image_size)
        looks.append(_two_linears(graph, model.projectors[name], seen))  # (K, D)
    state = _two_linears(graph, model.state, "pose")  # (1, D)
    last = graph.add("Add", graph.add("Concat", state, model.readout[None], axis=0), "asked")  # (2, D)
    given = graph.add("Mul", graph.add("Concat", *looks, last, axis=0), model.token_scale)  # (V + 2, D)
    tokens = graph.add("Concat", "words", given, axis=0)  # (N, D)
    inputs += [_value("pose", [1, config.state_dim + 1]), _value("asked", [2, config.width])]
    inputs.append(_value("words", ["words", config.width]))
    if not routed:
        return graph.model(inputs, tokens)
    inputs.append(_value("said", [1, config.layers]))
    if config.router.recent:
        inputs.append(_value("recent", [1, config.router.recent, config.action_dim + 1]))
    return graph.model(inputs, tokens, _evidence(graph, model.router, given))


@torch.no_grad()
def instruction_inputs(model: Policy, told: Told) -> dict[str, np.ndarray]:
    """What `encoders` is given of an instruction: its scaled words (T, D), what is asked (2, D), `said` (1, L) if there
    is a router, scales and shifts of every FiLM with the normalisation's own folded in, (1, C, 1, 1) together."""
    found = {"words": (told.words * model.token_scale)[0], "asked": model.ask(told.language).view(2, -1)}
    films = []
    for name in model.config.cameras:
        encoder = model.encoders[name]
        films += [*_film_of(encoder.fine, told.language), *_film_of(encoder.coarse, told.language)]
        scale, shift = encoder.film(told.language)[0].chunk(2)
        films += [1 + scale, shift]
    found["films"] = torch.cat(films).view(1, -1, 1, 1)
    if model.router:
        found["said"] = _said(model.router, told.words * model.token_scale)
    return {name: np.ascontiguousarray(values.cpu().numpy()) for name, values in found.items()}


@torch.no_grad()
def decoder(model: Policy) -> bytes:
    """Inputs: tokens `x` (N, D), `cos` and `sin` (N, H), `mask` (N, N) added to scores, `plan` (L,) bool.
    Output: the head's answer to the last token, (1, K · A), as `Policy.head` has it.

    Each layer is the branch of an `If`, so one graph has every plan, and a skipped layer's branch is not run. Only the
    last token is asked for, so the last layer computes no other.
    """
    graph, layers = Graph(), model.decoder.layers
    runs = graph.add("Split", PLAN, outputs=len(layers), axis=0, num_outputs=len(layers))
    x = "x"
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        taken, passed = Graph(f"layer{i}_"), Graph(f"skipped{i}_")
        then = taken.body(_layer(taken, layer, x, last))
        otherwise = passed.body(_last_row(passed, x) if last else passed.add("Identity", x))
        x = graph.add("If", runs[i] if len(layers) > 1 else runs, then_branch=then, else_branch=otherwise)
    answer = _two_linears(graph, model.head, _rms_norm(graph, model.decoder.norm, x))
    return graph.model([*_layer_inputs(model), _value(PLAN, [len(layers)], TensorProto.BOOL)], answer)


@torch.no_grad()
def decoder_of_one_plan(model: Policy, executed: list[int]) -> bytes:
    """`decoder` for these layers only, without branches and without input `plan`; to compare with."""
    graph, x = Graph(), "x"
    for i in executed:
        x = _layer(graph, model.decoder.layers[i], x, last=i == len(model.decoder.layers) - 1)
    if executed[-1] != len(model.decoder.layers) - 1:
        x = _last_row(graph, x)
    answer = _two_linears(graph, model.head, _rms_norm(graph, model.decoder.norm, x))
    return graph.model(_layer_inputs(model), answer)


def _evidence(graph: Graph, router: Router, given: str) -> str:
    """`Router.evidence` of the tokens after the words, and of `recent`; `said` has what the words add."""
    add, hidden, norm = graph.add, router.state.out_features, router.vision_norm
    gate = router.gate.weight.double()  # (L, 5R or 6R): vision 2R, language 2R, state R, recent actions R
    of_state = gate[:, 4 * hidden : 5 * hidden] @ router.state.weight.double()  # (L, D): two linear layers in one
    weights = torch.cat([gate[:, : 2 * hidden], of_state, gate[:, 5 * hidden :]], dim=1).T.float()  # (2R + D (+ R), L)
    images, state, _ = add("Split", given, _ints(router.vision_tokens, 1, 1), outputs=3, axis=0)  # (V, D), (1, D)
    seen = add("Gemm", images, router.vision.weight.T, router.vision.bias)  # (V, R)
    seen = add("LayerNormalization", seen, norm.weight, norm.bias, epsilon=norm.eps)
    mean, largest = add("ReduceMean", seen, _ints(0)), add("ReduceMax", seen, _ints(0))  # (1, R) each
    done = []
    if router.recent is not None:
        linear = router.recent[1]
        done = [add("Gelu", add("Gemm", add("Flatten", "recent"), linear.weight.T, linear.bias))]  # (1, R)
    return add("Gemm", add("Concat", mean, largest, state, *done, axis=1), weights, "said")  # (1, L)


def _said(router: Router, words: Tensor) -> Tensor:
    """What the words (1, T, D), and the bias of the state's layer, add to the evidence; (1, L)."""
    heard = router.language_norm(router.language(words))  # (1, T, R)
    pooled, hidden = (
        torch.cat([heard.mean(1), heard.amax(1), router.state.bias[None]], dim=-1),
        router.state.out_features,
    )
    return pooled @ router.gate.weight[:, 2 * hidden : 5 * hidden].T  # of (1, 3R)


def _layer_inputs(model: Policy) -> list[onnx.ValueInfoProto]:
    size = model.config.width // model.config.heads
    return [
        _value("x", ["tokens", model.config.width]),
        _value("cos", ["tokens", size]),
        _value("sin", ["tokens", size]),
        _value("mask", ["tokens", "tokens"]),
    ]


def _encoder(graph: Graph, encoder: ImageEncoder, name: str, films: list[str], size: int) -> str:
    """`ImageEncoder` of the camera's image; scaling pixels to [−1, 1] is folded into the patches' weights."""
    add, fine_size = graph.add, size // PATCH
    image = add("Unsqueeze", add("Cast", add("Transpose", name, perm=[2, 0, 1]), to=TensorProto.FLOAT), _ints(0))
    patch = encoder.patch.weight.view(-1, 3, PATCH, PATCH)
    bias = encoder.patch.bias - patch.sum((1, 2, 3))
    x = add("Gelu", add("Conv", image, patch / 127.5, bias, strides=[PATCH, PATCH]))  # (1, 48, S/4, S/4)
    fine = _film_block(graph, encoder.fine, x, films[:2], fine_size)
    coarse = add("Gelu", _conv(graph, encoder.conv3, fine, strides=[2, 2]))  # (1, 96, S/8, S/8)
    coarse = _film_block(graph, encoder.coarse, coarse, films[2:4], fine_size // 2)
    twice = np.array([1, 1, 2, 2], dtype=np.float32)
    up = add("Resize", _conv(graph, encoder.coarse_out, coarse), "", twice, mode="linear")  # half-pixel centres
    features = add("Add", _conv(graph, encoder.fine_out, fine), up)
    features = add("Gelu", add("Add", add("Mul", features, films[4]), films[5]))  # (1, W, S/4, S/4)
    maps, out = encoder.maps, encoder.maps.in_channels
    scores = add("Conv", features, SHARPNESS * maps.weight, SHARPNESS * maps.bias)
    attention = add("Softmax", add("Reshape", scores, _ints(maps.out_channels, -1)), axis=-1)  # (K, P)
    columns = add("Transpose", add("Reshape", features, _ints(out, -1)), perm=[1, 0])  # (P, W)
    grid = encoder._grid(torch.empty(1, 1, fine_size, fine_size))  # (P, 2)
    return add("Concat", add("MatMul", attention, columns), add("MatMul", attention, grid), axis=1)  # (K, W + 2)


def _film_block(graph: Graph, block: FiLMBlock, x: str, film: list[str], size: int) -> str:
    """x + gelu(normalised convolution · scale + shift); what the normalisation scales is in the FiLM already."""
    groups, channels, add = block.norm.num_groups, block.norm.num_channels, graph.add
    y = add("Reshape", _conv(graph, block.conv, x), _ints(1, groups, -1))
    one, zero = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    y = add(
        "Reshape", add("InstanceNormalization", y, one, zero, epsilon=block.norm.eps), _ints(1, channels, size, size)
    )
    return add("Add", x, add("Gelu", add("Add", add("Mul", y, film[0]), film[1])))


def _film_widths(encoder: ImageEncoder) -> list[int]:
    fine, coarse, features = encoder.fine_out.in_channels, encoder.coarse_out.in_channels, encoder.maps.in_channels
    return [fine, fine, coarse, coarse, features, features]


def _film_of(block: FiLMBlock, language: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = block.film(language)[0].chunk(2)
    return block.norm.weight * (1 + scale), block.norm.bias * (1 + scale) + shift


def _conv(graph: Graph, conv: nn.Conv2d, x: str, **attributes: list[int]) -> str:
    return graph.add("Conv", x, conv.weight, conv.bias, pads=[*conv.padding, *conv.padding], **attributes)


def _two_linears(graph: Graph, modules: nn.Sequential, x: str) -> str:
    first, _, second = modules
    x = graph.add("Gelu", graph.add("Gemm", x, first.weight.T, first.bias))
    return graph.add("Gemm", x, second.weight.T, second.bias)


def _layer(graph: Graph, layer: nn.Module, x: str, last: bool) -> str:
    """A Llama layer on (N, D); `last`: of the last token only, (1, D)."""
    add, attention, mlp = graph.add, layer.self_attn, layer.mlp
    size = attention.head_dim
    normed = _rms_norm(graph, layer.input_layernorm, x)
    asked, cos, sin = (_last_row(graph, name) if last else name for name in (normed, "cos", "sin"))
    weights = attention.q_proj.weight * size**-0.5, attention.k_proj.weight, attention.v_proj.weight
    if last:
        query = _rotate(graph, _heads(graph, asked, weights[0], size), cos, sin)  # (H, 1, D / H)
        both = _heads(graph, normed, torch.cat(weights[1:]), size)  # (2 H, N, D / H)
        key, value = add("Split", both, outputs=2, axis=0, num_outputs=2)
        key = _rotate(graph, key, cos="cos", sin="sin")
    else:
        every, heads = _heads(graph, normed, torch.cat(weights), size), len(weights[0]) // size
        both, value = add("Split", every, _ints(2 * heads, heads), outputs=2, axis=0)
        query, key = add("Split", _rotate(graph, both, cos, sin), outputs=2, axis=0, num_outputs=2)  # (H, N, D / H)
    scores = add("MatMul", query, add("Transpose", key, perm=[0, 2, 1]))  # (H, N or 1, N)
    scores = scores if last else add("Add", scores, "mask")
    heard = add("Transpose", add("MatMul", add("Softmax", scores, axis=-1), value), perm=[1, 0, 2])
    heard = add("Reshape", heard, _ints(-1, attention.o_proj.in_features))
    x = add("Add", _last_row(graph, x) if last else x, add("MatMul", heard, attention.o_proj.weight.T))
    normed = _rms_norm(graph, layer.post_attention_layernorm, x)
    both = add("MatMul", normed, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).T)
    gate, up = add("Split", both, outputs=2, axis=-1, num_outputs=2)
    opened = add("Mul", add("Mul", gate, add("Sigmoid", gate)), up)
    return add("Add", x, add("MatMul", opened, mlp.down_proj.weight.T))


def _heads(graph: Graph, x: str, weight: Tensor, size: int) -> str:
    projected = graph.add("Reshape", graph.add("MatMul", x, weight.T), _ints(-1, len(weight) // size, size))
    return graph.add("Transpose", projected, perm=[1, 0, 2])


def _rotate(graph: Graph, x: str, cos: str, sin: str) -> str:
    first, second = graph.add("Split", x, outputs=2, axis=-1, num_outputs=2)
    turned = graph.add("Concat", graph.add("Neg", second), first, axis=-1)
    return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", turned, sin))


def _rms_norm(graph: Graph, norm: nn.Module, x: str) -> str:
    """Written the way that runtimes recognise and fuse."""
    square = graph.add("ReduceMean", graph.add("Pow", x, np.float32(2)), _ints(-1), keepdims=1)
    root = graph.add("Sqrt", graph.add("Add", square, np.float32(norm.variance_epsilon)))
    return graph.add("Mul", graph.add("Div", x, root), norm.weight)


def _last_row(graph: Graph, x: str) -> str:
    return graph.add("Slice", x, _ints(-1), _ints(np.iinfo(np.int64).max), _ints(0))


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _value(name: str, shape: list | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
