"""Stage 2 for a published VLA: its student, trained to act on a share of the layers."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.distill import losses
from actdistill_ros.distill.graph import LayerHeads
from actdistill_ros.distill.losses import Layers
from actdistill_ros.distill.probing import read
from actdistill_ros.distill.student import EMA, StudentSettings, draw_gates, rate_share
from actdistill_ros.distill.vla.adapters import Copy, LowRank, Trained
from actdistill_ros.distill.vla.samples import VlaBatch
from actdistill_ros.distill.vla.teacher import Given, VlaTeacher
from actdistill_ros.distill.weights import Owned, descend
from actdistill_ros.policy.vla.router import VlaRouter

ROUTER_HIDDEN = 128
HEAD_SHARE = 0.1  # of the adapters' learning rate, for a head that is trained whole beside them


class VlaStudent:
    """Adapters (or a copy), head, router, graph heads, optimiser and averaged weights; a `loop.Stage`. What is random
    depends on seed and step. Vision, projector and embedding stay the teacher's."""

    def __init__(
        self, name: str, teacher: VlaTeacher, heads: LayerHeads, place: Tensor, settings: StudentSettings, rank: int
    ) -> None:
        """heads: as stage 1 left them, kept for the teacher and copied for the student; place: (L,) see `Router`;
        rank: of the adapters, 0 trains a copy of the whole decoder."""
        settings.check()
        torch.manual_seed(settings.seed)
        self.name, self.steps, self.step = name, settings.steps, 0
        self.teacher, self._settings, shape = teacher, settings, teacher.shape
        self.trained: Trained = LowRank(teacher.vlm.decoder, rank) if rank else Copy(teacher.vlm.decoder)
        self.head = teacher.head.student(full=not rank)
        self.router = VlaRouter(shape.width, ROUTER_HIDDEN, shape.layers, teacher.patches).to(teacher.device)
        self.router.place.data.copy_(place)
        self.heads = LayerHeads(shape.layers, shape.width, shape.chunk, shape.action_dim, heads.config)
        self.heads.to(teacher.device).load_state_dict(heads.state_dict())
        self._fixed = heads.requires_grad_(False)
        decoder, router = self.trained.parameters(), _prefixed("router.", dict(self.router.named_parameters()))
        head = _prefixed("head.", {name: p for name, p in self.head.named_parameters() if p.requires_grad})
        self._kept = decoder | head | router  # what the student is, by name
        self.average = {name: p.detach().clone() for name, p in self._kept.items()}
        new = [*self.heads.parameters(), *router.values()]
        self._owned = [Owned(some, teacher.processes) for some in (decoder.values(), head.values(), new) if some]
        rate = settings.learning_rate
        rates = (rate, *([rate * HEAD_SHARE if rank else rate] if head else []), settings.new_rate)
        groups = [{"params": one.parts, "peak": rate} for one, rate in zip(self._owned, rates, strict=True)]
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        described = {**asdict(settings), "rank": rank, "heads": asdict(heads.config)}
        self.settings = json.dumps({**teacher.settings, **described})

    def update(self) -> dict[str, float]:
        settings, processes = self._settings, self.teacher.processes
        rng = np.random.default_rng([settings.seed, 2, self.step])
        batch = self.teacher.batch(settings.seed, self.step, settings.batch)
        given = self.teacher.give(batch)
        gates, terms = draw_gates(
            lambda budgets: self.router(given.tokens, given.present, budgets),
            self.router.always, settings, self.step, rng, self.teacher,
        )  # fmt: skip
        terms |= self._terms(batch, given, gates)
        share = rate_share(self.step, self.steps, settings.warmup)
        descend(self.optimiser, self._owned, sum(terms.values()), share)
        self.step += 1
        self._follow()
        layers = processes.whole(gates.detach()).mean()
        return {name: value.item() for name, value in terms.items()} | {"layers": layers.item()}

    def _terms(self, batch: VlaBatch, given: Given, gates: Tensor) -> dict[str, Tensor]:
        """Losses of the whole batch, from what each process found out about its samples."""
        teacher, settings, streams = self.teacher, self._settings, self._settings.streams
        processes, head = teacher.processes, teacher.head
        with self.trained.off():
            taught = teacher.trace(given)
            wanted = teacher.features(taught[-1], given)
        hidden, own = self.run(given, gates)
        draws = head.draw(batch, settings.batch, processes.share(settings.batch), (settings.seed, self.step))
        said, weight = head.terms(self.head, own, wanted, batch, draws), {"task": 1.0, "output": settings.output}
        # Each is a mean over samples, and all processes have as many: the mean of the means is the whole batch's.
        terms = {name: weight[name] * processes.whole(x[None]).mean() for name, x in said.items() if weight[name]}
        if streams.alpha or streams.beta:
            student = read(self.heads, hidden, given, teacher)
            with torch.no_grad():
                fixed = read(self._fixed, taught, given, teacher)
            target = processes.whole(batch.actions)
            terms |= losses.dual_stream(self._whole(student), self._whole(fixed), target, streams)
        return terms

    def run(self, given: Given, gates: Tensor) -> tuple[list[Tensor], Tensor]:
        """The student's residual stream after each layer, L of (B, N, D), and what its head is given. gates: (B, L)."""
        decoder = self.trained.decoder
        with self.teacher.precision():
            hidden = decoder.trace(given.tokens, None, gates, self.teacher.run if gates.requires_grad else None)
            return hidden, self.teacher.head.features(hidden[-1], decoder.norm, given.last)

    def _whole(self, one: Layers) -> Layers:
        whole = self.teacher.processes.whole
        return Layers(whole(one.semantic, dim=1), whole(one.chunks, dim=1))

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(EMA, (self.step + 1) / (self.step + 10))
        live = [self._kept[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)

    def state(self) -> dict:
        return {
            "kept": {name: p.detach() for name, p in self._kept.items()},
            "heads": self.heads.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        for name, p in self._kept.items():
            p.copy_(state["kept"][name])
            self.average[name].copy_(state["average"][name])
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])

    @torch.no_grad()
    def finish(self, limit: int = 1024) -> None:
        """Training is over: the weights become the averaged ones, and held-out episodes give the router's
        thresholds."""
        for name, p in self._kept.items():
            p.copy_(self.average[name])
        evidence = []
        for batch in self.teacher.held_out(limit):
            given = self.teacher.give(batch)
            evidence.append(self.router.evidence(given.tokens, given.present))
        self.router.calibrate(torch.cat(evidence))

    def tensors(self) -> Mapping[str, Tensor]:
        """All that is not as the teacher has it, by names of the checkpoint's model; adapters merged when asked for."""
        head = {name: p.detach() for name, p in self.head.named_parameters() if p.requires_grad}
        return ChainMap(_prefixed(self.teacher.head.name, head), self.trained.merged())


def _prefixed(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in named.items()}
