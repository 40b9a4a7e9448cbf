"""Engines side by side in one process: what each takes for encoders and decoder, to start, and how far it is from
torch."""

from __future__ import annotations

import copy
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actdistill_ros.policy import onnx_graphs
from actdistill_ros.policy.captured import Exported, Limits
from actdistill_ros.policy.engine import Engine, Seen, TorchEngine
from actdistill_ros.policy.model import Policy
from actdistill_ros.policy.onnx_engine import OnnxEngine, positions, session
from actdistill_ros.policy.runtime import PolicyRuntime

STAGES = ("encode", "decoder_full", "decoder_plan")


@dataclass(frozen=True)
class Way:
    """One way to compute a step. start_s: until it can; calls: of each stage; answer: (K · A,) of the plan."""

    name: str
    start_s: float
    calls: dict[str, Callable[[], object]]
    answer: np.ndarray


@torch.inference_mode()
def compare(student: PolicyRuntime, observations: Sequence, seconds: float) -> dict:
    """The student's most frequent plan and all layers, on the first observation. Ways that cannot run here say why."""
    plans = Counter(tuple(map(bool, student.step(seen).executed)) for seen in observations)
    plan, often = plans.most_common(1)[0]
    seen, missing = student.seen(observations[0]), {}
    ways = list(_ways(student.model, seen, plan, missing))
    times = _in_turns(ways, seconds)
    found = {}
    for way in ways:
        found[way.name] = {"start_s": way.start_s, "difference": float(np.abs(way.answer - ways[0].answer).max())}
        for stage in STAGES:
            p50, p95 = np.percentile(times[way.name, stage], [50, 95])
            found[way.name] |= {f"{stage}_ms": float(p50), f"{stage}_ms_p95": float(p95)}
    return {
        "layers_total": student.layers,
        "layers_executed": sum(plan),
        "plan_frequency": often / len(observations),
        "plans": len(plans),
        "rounds": len(times[ways[0].name, STAGES[0]]),
        "engines": found,
        "missing": missing,
    }


def table(found: dict) -> str:
    """As Markdown."""
    some = f"{found['layers_executed']} of {found['layers_total']} layers"
    lines = [
        f"| engine | encoders p50 / p95 [ms] | all layers | {some} | start [s] | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["engines"].items():
        cells = [f"{row[f'{stage}_ms']:.2f} / {row[f'{stage}_ms_p95']:.2f}" for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['start_s']:.1f} | {row['difference']:.0e} |")
    return "\n".join(lines + [f"\n{name}: {why}" for name, why in found["missing"].items()])


def _ways(model: Policy, seen: Seen, plan: tuple[bool, ...], missing: dict[str, str]) -> Iterator[Way]:
    yield _of_engine("torch", lambda: TorchEngine(model), seen, plan)
    if shutil.which("g++"):
        yield _of_engine("torch.compile", lambda: TorchEngine(_compiled(model)), seen, plan)
    else:
        missing["torch.compile"] = "needs g++ where it runs; there is none"
    captured = "torch, a captured graph per plan"
    yield _of_engine(captured, lambda: TorchEngine(model, capture=Exported()), seen, plan, Limits().after)
    yield _of_engine("onnxruntime", lambda: OnnxEngine(model), seen, plan)
    inputs = _graph_inputs(model, seen)
    yield _of_graphs("onnxruntime, a graph per plan", _onnxruntime, model, inputs, plan)
    try:
        import openvino
    except ImportError:
        missing["openvino"] = "is not installed; it is no requirement: `pip install openvino`"
    else:
        yield _of_graphs("openvino, a graph per plan", _openvino_on(openvino), model, inputs, plan)


def _of_engine(name: str, make: Callable[[], Engine], seen: Seen, plan: tuple[bool, ...], warm_up: int = 1) -> Way:
    """warm_up: runs of a plan until it is as fast as it gets."""
    start = time.perf_counter()
    engine, every = make(), [True] * len(plan)
    encoded = engine.encode(seen)
    for _ in range(warm_up):
        engine.decode(encoded, every)
        engine.decode(encoded, plan)
    answer = engine.act(engine.decode(encoded, plan)).ravel()
    calls = {
        "encode": lambda: engine.encode(seen),
        "decoder_full": lambda: engine.act(engine.decode(encoded, every)),
        "decoder_plan": lambda: engine.act(engine.decode(encoded, plan)),
    }
    return Way(name, time.perf_counter() - start, calls, answer)


def _of_graphs(
    name: str, load: Callable[[bytes], Callable], model: Policy, inputs: dict[str, np.ndarray], plan: tuple[bool, ...]
) -> Way:
    start = time.perf_counter()
    encoders = load(onnx_graphs.encoders(model, routed=False))
    full = load(onnx_graphs.decoder_of_one_plan(model, list(range(len(plan)))))
    part = load(onnx_graphs.decoder_of_one_plan(model, np.flatnonzero(plan).tolist()))
    tokens = encoders(inputs)
    given = {"x": tokens, **positions(model, len(tokens))}
    full(given)
    answer = np.array(part(given)).ravel()
    calls = {
        "encode": lambda: encoders(inputs),
        "decoder_full": lambda: full(given),
        "decoder_plan": lambda: part(given),
    }
    return Way(name, time.perf_counter() - start, calls, answer)


def _graph_inputs(model: Policy, seen: Seen) -> dict[str, np.ndarray]:
    told = onnx_graphs.instruction_inputs(model, model.tell(torch.tensor([seen.ids])))
    told.pop("said", None)
    return {**told, **seen.images, "pose": np.append(seen.state, np.float32(1))[None]}


def _onnxruntime(graph: bytes) -> Callable[[dict], np.ndarray]:
    ready = session(graph)
    return lambda inputs: ready.run(None, inputs)[0]


def _openvino_on(openvino) -> Callable[[bytes], Callable[[dict], np.ndarray]]:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }

    def load(graph: bytes) -> Callable[[dict], np.ndarray]:
        request = openvino.compile_model(openvino.Core().read_model(graph), "CPU", settings).create_infer_request()
        return lambda inputs: np.array(request.infer(inputs, share_inputs=True, share_outputs=True)[0])

    return load


def _compiled(model: Policy) -> Policy:
    compiled = copy.deepcopy(model)
    for module in (*compiled.encoders.values(), *compiled.decoder.layers):
        module.compile()
    return compiled


def _in_turns(ways: list[Way], seconds: float) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of every stage of every way, taken in turns so that a slower moment meets all alike."""
    times: dict[tuple[str, str], list[float]] = {(way.name, stage): [] for way in ways for stage in STAGES}
    start = time.monotonic()
    while len(times[ways[0].name, STAGES[0]]) < 3 or time.monotonic() - start < seconds:
        for way in ways:
            for stage in STAGES:
                begin = time.perf_counter()
                way.calls[stage]()
                times[way.name, stage].append((time.perf_counter() - begin) * 1e3)
    return times


@torch.inference_mode()
def evidence_ms(student: PolicyRuntime, observation, rounds: int = 200) -> float:
    """What the router adds to the encoders' graph, against the same graph without it, in turns."""
    model, seen = student.model, student.seen(observation)
    inputs = _graph_inputs(model, seen)
    told = onnx_graphs.instruction_inputs(model, model.tell(torch.tensor([seen.ids])))
    without, routed = (session(onnx_graphs.encoders(model, routed)) for routed in (False, True))
    times: tuple[list[float], list[float]] = ([], [])
    more = {"said": told["said"]} | ({"recent": seen.recent[None]} if seen.recent.size else {})
    for _ in range(rounds):
        for graph, given, found in ((without, inputs, times[0]), (routed, inputs | more, times[1])):
            begin = time.perf_counter()
            graph.run(None, given)
            found.append((time.perf_counter() - begin) * 1e3)
    return max(0.0, float(np.median(times[1]) - np.median(times[0])))
