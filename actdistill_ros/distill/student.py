"""Stage 2: the student, trained to act on a share of the teacher's layers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from actdistill_ros.distill import losses, weights
from actdistill_ros.distill.graph import LayerHeads
from actdistill_ros.distill.loop import DistillError
from actdistill_ros.distill.losses import Layers, StreamWeights
from actdistill_ros.distill.probing import read
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.teacher import Given, Teacher, answer
from actdistill_ros.policy import losses as task
from actdistill_ros.policy.batches import Batch
from actdistill_ros.policy.budgets import LOWEST_BUDGET
from actdistill_ros.policy.config import RouterConfig
from actdistill_ros.policy.model import Policy, Prediction

EMA = 0.995
QUIET_AFTER = 0.7  # share of the training after which the gates are no longer shaken
TRAINED = ("decoder.", "head.", "focus.")  # vision and projector stay the teacher's, as in the paper


@dataclass(frozen=True)
class StudentSettings:
    """plan: run these layers in every step, without a router (controls); groups: parts of a batch that share a budget.

    output: weight of the teacher's final chunk; compute: weight of the budget; recent: how many of the actions
    commanded last the router is told.
    """

    budget: float = 0.47
    steps: int = 2000
    batch: int = 64
    groups: int = 4
    learning_rate: float = 5e-4
    new_rate: float = 2e-3
    warmup: int = 50
    seed: int = 0
    streams: StreamWeights = field(default_factory=StreamWeights)
    output: float = 1.0
    compute: float = 20.0
    plan: tuple[bool, ...] | None = None
    recent: int = 0

    def check(self) -> None:
        """Raises DistillError if this cannot be trained."""
        if self.recent < 0:
            raise DistillError(f"--recent-actions {self.recent} is not a number of actions; expected 0 or more")
        if not LOWEST_BUDGET <= self.budget <= 1.0:
            raise DistillError(f"budget {self.budget:g} cannot be met; expected {LOWEST_BUDGET} … 1")
        if self.batch % self.groups or self.batch < 2 * self.groups:
            raise DistillError(
                f"batch {self.batch} cannot be split into {self.groups} groups of at least 2 samples, which share a "
                f"budget and are compared with each other; give a multiple of {self.groups} from {2 * self.groups} on"
            )


class Student:
    """Model, heads, optimiser and averaged weights; a `loop.Stage`. What is random depends on seed and step."""

    def __init__(
        self, name: str, teacher: Teacher, heads: LayerHeads, place: Tensor, settings: StudentSettings
    ) -> None:
        """heads: as stage 1 left them, kept for the teacher and copied for the student; place: (L,) see `Router`."""
        settings.check()
        if settings.batch > len(teacher.samples.training):
            raise DistillError(
                f"batch {settings.batch} is more than the {len(teacher.samples.training)} samples to train on; "
                "lower --batch, or record more."
            )
        torch.manual_seed(settings.seed)
        self.name, self.steps, self.step = name, settings.steps, 0
        self.teacher, self._settings = teacher, settings
        self.model = derive(teacher.model, place, settings).to(teacher.device)
        weights.split(self.model.decoder.layers, teacher.processes)
        self.heads = LayerHeads(len(place), teacher.model.config.width, heads.chunk, 7, heads.config)
        self.heads.to(teacher.device).load_state_dict(heads.state_dict())
        self._fixed = heads.requires_grad_(False)
        self.average = {name: p.detach().clone() for name, p in self._trained().items()}
        kept = [p for key, p in self.model.named_parameters() if p.requires_grad and not key.startswith("router.")]
        new = [*self.heads.parameters(), *(p for p in self.model.router.parameters() if p.requires_grad)]
        self._owned = [weights.Owned(some, teacher.processes) for some in (kept, new)]
        rates = (settings.learning_rate, settings.new_rate)
        groups = [{"params": one.parts, "peak": rate} for one, rate in zip(self._owned, rates, strict=True)]
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        described = {key: value for key, value in asdict(settings).items() if key != "recent" or value}
        self.settings = json.dumps({**teacher.settings, **described, "heads": asdict(heads.config)})

    def update(self) -> dict[str, float]:
        settings = self._settings
        rng = np.random.default_rng([settings.seed, 2, self.step])
        batch = self.teacher.batch(settings.seed, self.step, settings.batch, settings.recent)
        given = self.teacher.give(batch)
        gates, terms = self._gates(given, rng)
        terms |= self._terms(batch, given, gates)
        share = rate_share(self.step, self.steps, settings.warmup)
        weights.descend(self.optimiser, self._owned, sum(terms.values()), share)
        self.step += 1
        self._follow()
        layers = self.teacher.processes.whole(gates.detach()).mean()
        return {name: value.item() for name, value in terms.items()} | {"layers": layers.item()}

    def _gates(self, given: Given, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Gates (b, L) of this process's samples, 0 or 1, whose gradient is that of the soft gates; and the loss of the
        budget, which is the whole batch's, as what is random is drawn for the whole batch."""
        settings = self._settings
        if settings.plan is not None:
            plan = torch.tensor(settings.plan, dtype=torch.float32, device=self.teacher.device)
            return plan.expand(len(given.tokens), -1), {}
        router = self.model.router

        def score(budgets: Tensor) -> Tensor:
            return router(given.tokens, given.present, budgets, given.recent)

        return draw_gates(score, router.always, settings, self.step, rng, self.teacher)

    def _terms(self, batch: Batch, given: Given, gates: Tensor) -> dict[str, Tensor]:
        """Losses of the whole batch, from what each process found out about its samples."""
        streams, teacher, whole = self._settings.streams, self.teacher, self.teacher.processes.whole
        taught = teacher.trace(given)
        with teacher.precision():
            hidden = self.model.decoder.trace(given.tokens, given.present, gates, teacher.run)
            own = answer(self.model, hidden, given)
        said = Prediction(whole(own.motion), whole(own.gripper), whole(own.scene), whole(own.focus))
        target = whole(batch.chunk)
        terms = {"task": self._task(said, target, whole(batch.aux), whole(batch.state[:, -1]))}
        if self._settings.output:
            wanted = teacher.answer(taught, given)
            distance = losses.output(said.motion, said.gripper, whole(wanted.motion), whole(wanted.gripper))
            terms["output"] = self._settings.output * distance
        if streams.alpha or streams.beta:
            student = read(self.heads, hidden, given, teacher)
            with torch.no_grad():
                fixed = read(self._fixed, taught, given, teacher)
            terms |= losses.dual_stream(self._whole(student), self._whole(fixed), target, streams)
        return terms

    def _whole(self, one: Layers) -> Layers:
        whole = self.teacher.processes.whole
        return Layers(whole(one.semantic, dim=1), whole(one.chunks, dim=1))

    def _task(self, said: Prediction, target: Tensor, aux: Tensor, opening: Tensor) -> Tensor:
        execute = self.teacher.contract.action.execute
        return task.compute(said, target, aux, opening, execute).total

    def _trained(self) -> dict[str, Tensor]:
        """This process's part of what is trained."""
        return {name: weights.own(p.detach()) for name, p in self._trained_whole().items()}

    def _trained_whole(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _average(self) -> dict[str, Tensor]:
        return {name: weights.whole(p, self.average[name]) for name, p in self._trained_whole().items()}

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(EMA, (self.step + 1) / (self.step + 10))
        live = self._trained()
        torch._foreach_lerp_(list(self.average.values()), [live[name] for name in self.average], 1 - decay)

    def state(self) -> dict:
        return {
            "model": weights.whole_state(self.model),
            "heads": self.heads.state_dict(),
            "average": self._average(),
            "optimiser": weights.optimiser_state(self.optimiser, self._owned),
        }

    def restore(self, state: dict) -> None:
        weights.restore(self.model, state["model"])
        self.heads.load_state_dict(state["heads"])
        for name, p in self._trained_whole().items():
            self.average[name].copy_(weights.part(p, state["average"][name]))
        weights.restore_optimiser(self.optimiser, self._owned, state["optimiser"])

    @torch.no_grad()
    def finished(self, limit: int = 1024) -> Policy:
        """The policy to keep: averaged weights and calibrated thresholds, without the heads."""
        model = Policy(self.model.config).to(self.teacher.device)
        model.load_state_dict(weights.whole_state(self.model) | self._average())
        model.eval()
        calibrate(model, self.teacher, limit)
        return model


def derive(teacher: Policy, place: Tensor, settings: StudentSettings) -> Policy:
    """The teacher with a router, its front frozen. A fixed plan is a router that always chooses it."""
    model = Policy(replace(teacher.config, router=RouterConfig(budget=settings.budget, recent=settings.recent)))
    missing, extra = model.load_state_dict(weights.whole_state(teacher), strict=False)
    if extra or any(not name.startswith("router.") for name in missing):
        raise DistillError(f"teacher and student differ in more than the router: {[*missing, *extra]}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((*TRAINED, *(() if settings.plan else ("router.",)))))
    model.router.place.data.copy_(place)
    if settings.plan is not None:
        plan = torch.tensor(settings.plan)
        model.router.always.copy_(plan)
        model.router.place.data.copy_(torch.where(plan, 0.0, 1e6))
    return model


class OnDevice(Protocol):
    """Where a step is computed, and by whom."""

    processes: Processes
    device: torch.device


def draw_gates(
    score: Callable[[Tensor], Tensor],
    always: Tensor,
    settings: StudentSettings,
    step: int,
    rng: np.random.Generator,
    teacher: OnDevice,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gates (b, L) of this process's samples under budgets drawn for the step, and the loss of the whole batch's
    budgets. score: budgets (b,) of these samples to scores (b, L); always: (L,) bool."""
    processes, device = teacher.processes, teacher.device
    budgets, share = draw_budgets(rng, settings), processes.share(settings.batch)
    uniform = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, (settings.batch, len(always))).astype(np.float32))
    noise = torch.logit(uniform[share].to(device))
    shake = max(0.0, 1 - step / (QUIET_AFTER * settings.steps))
    gates = straight_through(score(budgets[share].to(device)) + shake * noise, always)
    loss = losses.compute_budget(processes.whole(gates), budgets.to(device), settings.groups)
    return gates, {"compute": settings.compute * loss}


def straight_through(scores: Tensor, always: Tensor) -> Tensor:
    """1 where the score is positive or the layer always runs, else 0; backwards as if it were sigmoid(score)."""
    soft = scores.sigmoid()
    hard = (scores > 0).float()
    return (hard + soft - soft.detach()).masked_fill(always, 1.0)


def draw_budgets(rng: np.random.Generator, settings: StudentSettings) -> Tensor:
    """(B,): half of the groups get the budget that the student is made for, the others one each of equal parts of
    the whole range."""
    others = settings.groups // 2
    strata = (np.arange(others) + rng.random(others)) / max(1, others)
    drawn = LOWEST_BUDGET + (1.0 - LOWEST_BUDGET) * strata
    groups = np.concatenate([np.full(settings.groups - others, settings.budget), drawn])
    return torch.from_numpy(np.repeat(groups, settings.batch // settings.groups).astype(np.float32))


def rate_share(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def calibrate(model: Policy, teacher: Teacher, limit: int) -> None:
    """Thresholds from held-out episodes; a router that always chooses one plan keeps to it at every budget."""
    router = model.router
    if router.place.max() > 1e5:
        router.thresholds.zero_()
        router.shares.fill_(router.always.float().mean().item())
        return
    evidence = []
    for batch in teacher.held_out(limit, model.config.router.recent):
        given = teacher.give(batch)
        evidence.append(router.evidence(given.tokens, given.present, given.recent))
    router.calibrate(torch.cat(evidence))


@torch.no_grad()
def held_out_curve(model: Policy, teacher: Teacher, budgets: list[float], limit: int = 512) -> list[dict[str, float]]:
    """At each budget, on held-out episodes: mean executed share, and losses against the expert (`motion`, `gripper`)
    and against the teacher (`output`)."""
    parts: dict[float, list[list[float]]] = {budget: [] for budget in budgets}
    for batch in teacher.held_out(limit, model.config.router.recent):
        given = teacher.give(batch)
        evidence = model.router.evidence(given.tokens, given.present, given.recent)
        wanted = teacher.answer(teacher.trace(given), given)
        for budget in budgets:
            at, threshold = model.router.at(budget)
            scores = model.router.score(evidence, torch.full((len(evidence),), at, device=teacher.device))
            gates = ((scores > threshold) | model.router.always).float()
            with teacher.precision():
                said = answer(model, model.decoder.trace(given.tokens, given.present, gates), given)
            execute = teacher.contract.action.execute
            found = task.compute(said, batch.chunk, batch.aux, batch.state[:, -1], execute).parts
            apart = losses.output(said.motion, said.gripper, wanted.motion, wanted.gripper)
            parts[budget].append([gates.mean().item(), found["motion"].item(), found["gripper"].item(), apart.item()])
    names = ("share", "motion", "gripper", "output")
    return [{"budget": b, **dict(zip(names, np.mean(parts[b], axis=0).tolist(), strict=True))} for b in budgets]
