"""`actdistill train`: behaviour cloning of the expert's chunks; killed at any moment it resumes on the same curve."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract
from actdistill_ros.data import statistics
from actdistill_ros.policy import checkpoint, losses
from actdistill_ros.policy.batches import HELD_OUT_EVERY, Batcher, Samples, cameras_of
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.model import Policy
from actdistill_ros.policy.tokenizer import Tokenizer, words

STATE_FILE, CURVE_FILE = "training.pt", "curve.jsonl"
LOG_EVERY = 50
EXECUTE = 4
SIMULATED_ROBOT = "arx_x5"
TRANSLATION_LIMIT_M, ROTATION_LIMIT_RAD = 0.035, 0.20
EMA = 0.998
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TrainingError(ValueError):
    """A run that cannot be started or resumed; the text says why and how to mend it."""


@dataclass(frozen=True)
class Settings:
    """What decides the curve; a run is resumed only under the same settings."""

    data: tuple[str, ...]
    steps: int
    batch: int
    learning_rate: float
    warmup: int
    seed: int
    init: str
    final_rate: float
    dtype: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets of `actdistill collect`")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; an unfinished run in it is resumed")
    parser.add_argument("--init", type=Path, help="checkpoint to go on from, with its vocabulary and statistics")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument(
        "--final-rate", type=float, default=0.03, help="share of the learning rate that is left at the end"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the matrix products; bfloat16 pays on processors that have it (avx512_bf16, amx) and slows down "
        "others",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save-every", type=int, default=250)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(
        True
    )  # averages of rarely used weights decay into denormals, which cost a hundred times more
    settings = Settings(
        tuple(map(str, args.data)),
        args.steps,
        args.batch,
        args.learning_rate,
        args.warmup,
        args.seed,
        str(args.init or ""),
        args.final_rate,
        args.dtype,
    )
    samples = Samples(args.data, cameras_of(args.data), PolicyConfig(()).image_size)
    trainer = Trainer(settings, samples, args.init)
    if trainer.resume(args.out):
        print(f"resuming {args.out} at step {trainer.step}")
    print(
        f"{len(samples.training)} training frames, {len(samples.instructions)} episodes, "
        f"{trainer.parameters / 1e6:.2f} M parameters"
    )
    trainer.fit(args.out, args.save_every)
    trainer.export(args.out)
    found = trainer.validate() or f"left out: fewer than {HELD_OUT_EVERY} episodes"
    print(f"{args.out}: done after {trainer.step} steps; validation {found}")
    return 0


class Trainer:
    """Model, optimiser and averaged weights of one run; everything random is a function of seed and step."""

    def __init__(self, settings: Settings, samples: Samples, init: Path | None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.samples, self.step = settings, samples, 0
        self.curve: dict[str, float] = {}  # losses, smoothed over about fifty steps
        if init is None:
            tokenizer = Tokenizer.of(samples.instructions)
            self.model = Policy(make_config(samples, tokenizer))
            self.contract = make_contract(samples, self.model.config)
        else:
            self.model, self.contract = checkpoint.load(init)
            _check_cameras(init, self.model.config.cameras, tuple(samples.images))
            self.model.train()
            tokenizer = Tokenizer(self.model.config.vocabulary)
        self.batcher = Batcher(samples, tokenizer, self.contract.active_statistics)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def fit(self, out: Path, save_every: int) -> None:
        start, first = time.monotonic(), self.step
        while self.step < self.settings.steps:
            for name, value in self.update().items():
                self.curve[name] = 0.98 * self.curve.get(name, value) + 0.02 * value
            if self.step % LOG_EVERY == 0:
                rate = (self.step - first) / (time.monotonic() - start)
                left = (self.settings.steps - self.step) / rate
                text = "  ".join(f"{k} {v:.3f}" for k, v in self.curve.items())
                pace = f"{rate * self.settings.batch:.0f} samples/s  {left / 60:.1f} min left"
                print(f"{self.step}/{self.settings.steps}  {text}  {pace}", flush=True)
                _log(out, {"step": self.step, **self.curve})
            if self.step % save_every == 0:
                self.save(out)
        self.save(out)

    def update(self) -> dict[str, float]:
        """One optimiser step; returns its losses by name."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        batch = self.batcher.train(self.settings.seed, self.step, self.settings.batch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        result = self._losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        result.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(EMA, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            live = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [live[k] for k in self.average], 1 - decay)
        return {name: float(value) for name, value in result.parts.items()}

    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on held-out episodes, and how far off the first frames place things [mm].

        Empty if the data are too few for an episode to be held out.
        """
        if not len(self.samples.validation):
            return {}
        live = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        with torch.inference_mode():
            everything = self._validation_losses(
                self.samples.validation[:: max(1, len(self.samples.validation) // 512)]
            )
            first = self._validation_losses(self.samples.validation_first)
        self.model.load_state_dict(live)
        self.model.train()
        places = {f"first_{name}": round(first[name], 2) for name in ("scene_mm", "focus_mm") if name in first}
        return {name: round(value, 4) for name, value in everything.items()} | places

    def _validation_losses(self, indices: np.ndarray) -> dict[str, float]:
        parts = [
            self._losses(self.batcher.at(chosen)).parts
            for chosen in np.array_split(indices, max(1, len(indices) // 64))
        ]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: float(np.mean([p[name] for p in parts if name in p])) for name in names}

    def _losses(self, batch) -> losses.Losses:
        dtype = DTYPES[self.settings.dtype]
        # On a CPU the flash kernel's backward pass takes half of a step of such short sequences.
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), sdpa_kernel(SDPBackend.MATH):
            prediction = self.model(batch.images, batch.instruction, batch.state, batch.pose_known).float()
        return losses.compute(prediction, batch.chunk, batch.aux, batch.state[:, -1], EXECUTE)

    def save(self, out: Path) -> None:
        """Everything needed to go on; replaced in one move, so that a kill leaves the old or the new one."""
        out.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": json.dumps(asdict(self.settings)),
            "step": self.step,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, out / f"{STATE_FILE}.unfinished")
        (out / f"{STATE_FILE}.unfinished").replace(out / STATE_FILE)

    def resume(self, out: Path) -> bool:
        """Go on from what `save` left in `out`, if anything.

        Raises TrainingError if that run had other settings: mixing two curves would make neither.
        """
        path = out / STATE_FILE
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if json.loads(state["settings"]) != json.loads(json.dumps(asdict(self.settings))):
            raise TrainingError(
                f"{path} belongs to a run with settings {state['settings']}; repeat them, or give another --out."
            )
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.curve = state["step"], state["curve"]
        _forget_after(out / CURVE_FILE, self.step)
        return True

    def export(self, out: Path) -> None:
        """The checkpoint that others load: averaged weights, shape, contract."""
        live = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        checkpoint.save(out, self.model, self.contract)
        self.model.load_state_dict(live)


def make_config(samples: Samples, tokenizer: Tokenizer) -> PolicyConfig:
    """The default shape for the cameras that the data have; all but the first are seen with fewer tokens."""
    cameras, (first, others) = tuple(samples.images), PolicyConfig(()).vision_tokens
    tokens = (first, *(others for _ in cameras[1:]))
    return PolicyConfig(vocabulary=tokenizer.vocabulary, cameras=cameras, vision_tokens=tokens)


def _check_cameras(init: Path, wanted: tuple[str, ...], found: tuple[str, ...]) -> None:
    if lacking := [name for name in wanted if name not in found]:
        raise TrainingError(
            f"{init} sees through {', '.join(wanted)}; the data have {', '.join(found) or 'no camera in common'}. "
            f"Give data with camera {', '.join(lacking)}."
        )


def make_contract(samples: Samples, config: PolicyConfig) -> Contract:
    cameras = tuple(CameraSpec(name, config.image_size, *samples.shapes[name]) for name in config.cameras)
    key = "tabletop" if samples.robot == SIMULATED_ROBOT else str(samples.robot)
    known = sorted({" ".join(words(part)) for text in samples.instructions for part in text.split(" then ")})
    return Contract(
        robot=str(samples.robot),
        cameras=cameras,
        action=ActionSpace(1 / samples.fps, config.chunk, EXECUTE, TRANSLATION_LIMIT_M, ROTATION_LIMIT_RAD),
        statistics={key: statistics.compute(samples.chunk)},
        statistics_key=key,
        instructions=tuple(known),
    )


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_rate` of the peak."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (
        settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    )


def _log(out: Path, line: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / CURVE_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of a killed run past what is resumed: they are about to be written again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines))
