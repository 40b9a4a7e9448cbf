"""A step on onnxruntime's CPU kernels: two sessions, made in a fraction of a second, serve every plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import onnxruntime
import torch

from actdistill_ros.policy import onnx_graphs
from actdistill_ros.policy.engine import INSTRUCTIONS, Seen
from actdistill_ros.policy.model import Policy

LENGTHS = 32  # numbers of tokens whose positions are kept


class OnnxEngine:
    """A snapshot of the model's weights; a change to the model later is not seen.

    Everything runs in the calling thread: at this size more threads win little, and threads of onnxruntime's own would
    not have the priority that the caller's thread gave itself.
    """

    name = "onnxruntime"

    def __init__(self, model: Policy) -> None:
        self._model = model
        self._encoders = session(onnx_graphs.encoders(model, routed=model.router is not None))
        self._decoder = session(onnx_graphs.decoder(model))
        self._actions = (model.config.chunk, model.config.action_dim)
        self._tell = lru_cache(INSTRUCTIONS)(self._told)
        self._positions = lru_cache(LENGTHS)(lambda tokens: positions(model, tokens))

    def encode(self, seen: Seen) -> list[np.ndarray]:
        """Tokens (N, D) and, with a router, evidence (1, L): it costs least as part of the same graph."""
        pose = np.ones((1, len(seen.state) + 1), dtype=np.float32)  # (1, 11), 1 at its end: the pose is known
        pose[0, :-1] = seen.state
        given = {**self._tell(seen.ids), **seen.images, "pose": pose}
        if seen.recent.size:
            given["recent"] = seen.recent[None]
        return self._encoders.run(None, given)

    def evidence(self, encoded: list[np.ndarray]) -> np.ndarray:
        return encoded[1][0]

    def decode(self, encoded: list[np.ndarray], executed: Sequence[bool]) -> np.ndarray:
        tokens, plan = encoded[0], np.array(executed, dtype=bool)
        return self._decoder.run(None, {"x": tokens, onnx_graphs.PLAN: plan, **self._positions(len(tokens))})[0]

    def act(self, hidden: np.ndarray) -> np.ndarray:
        return hidden.reshape(self._actions)  # the decoder's graph ends with the head

    def _told(self, ids: tuple[int, ...]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return onnx_graphs.instruction_inputs(self._model, self._model.tell(torch.tensor([ids])))


@torch.no_grad()
def positions(model: Policy, tokens: int) -> dict[str, np.ndarray]:
    """Rotation of each position, (N, H) each, and the causal mask that is added to scores, (N, N)."""
    cos, sin = model.decoder.rotary(model.readout, torch.arange(tokens)[None])  # (1, N, H) each
    mask = np.triu(np.full((tokens, tokens), -1e9, dtype=np.float32), 1)
    return {"cos": cos[0].numpy(), "sin": sin[0].numpy(), "mask": mask}


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
