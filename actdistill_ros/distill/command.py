"""`actdistill distill`: a teacher into a student that runs a share of its layers; killed at any moment it resumes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from actdistill_ros.distill import controls, depth, estimate, judge, report
from actdistill_ros.distill.graph import HeadConfig
from actdistill_ros.distill.loop import DistillError, fit
from actdistill_ros.distill.losses import StreamWeights
from actdistill_ros.distill.ownership import owned
from actdistill_ros.distill.probing import Probed, Probing, ProbingSettings
from actdistill_ros.distill.processes import Processes, leave
from actdistill_ros.distill.student import Student, StudentSettings, held_out_curve
from actdistill_ros.distill.teacher import DTYPES, Teacher
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.budgets import LOWEST_BUDGET
from actdistill_ros.policy.model import Policy
from actdistill_ros.policy.vla import layout

VLA_BATCH, VLA_RANK, VLA_FULL_RATE = 16, 32, 2e-5  # OpenVLA's own fine-tuning: batch and rank, rate of all weights
CURVE_BUDGETS = [0.25, 0.3, 0.35, 0.4, 0.47, 0.5, 0.6, 0.75, 1.0]


EXAMPLES = """examples:
  a teacher of this package (`actdistill collect` made the data, `actdistill train` the teacher):
    actdistill distill --teacher models/tabletop-teacher --data datasets/expert --budget 0.47 --out models/my-student
  a folder of OpenVLA with its deployment.json (--dry-run first: what it would cost):
    actdistill distill --teacher openvla-7b --data datasets/mine --budget 0.47 --out models/my-student --checkpointing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    plan, probing = StudentSettings(), ProbingSettings()
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        help="checkpoint of `actdistill train`; or a folder of OpenVLA or CogACT with its deployment.json "
        "(docs/vla.md)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="data sets of `actdistill collect` or `actdistill dataset import`; what others recorded is imported first",
    )
    parser.add_argument(
        "--budget", type=float, default=plan.budget, help="share of decoder compute (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder of the student")
    parser.add_argument("--work", type=Path, help="where an unfinished run lives (default: OUT with .training)")
    parser.add_argument(
        "--steps", type=int, default=plan.steps, help="that the student is trained for (default: %(default)s)"
    )
    parser.add_argument(
        "--probe-steps",
        type=int,
        default=probing.steps,
        help="before that, of the heads that tell what each layer knows of the action (default: %(default)s)",
    )
    parser.add_argument("--batch", type=int, help=f"(default: {plan.batch}; of a published VLA: {VLA_BATCH})")
    parser.add_argument(
        "--learning-rate",
        type=float,
        help=f"of decoder and head (default: {plan.learning_rate:g}; of a published VLA's whole decoder, "
        f"{VLA_FULL_RATE:g})",
    )
    parser.add_argument("--rank", type=int, help=f"of a published VLA's adapters (default: {VLA_RANK})")
    parser.add_argument("--full", action="store_true", help="train all of a published VLA's decoder, without adapters")
    parser.add_argument("--alpha", type=float, default=plan.streams.alpha, help="weight of the semantic stream; 0: off")
    parser.add_argument("--beta", type=float, default=plan.streams.beta, help="weight of the action stream; 0: off")
    parser.add_argument("--eta", type=float, default=plan.streams.eta, help="relations in the semantic stream; 0: off")
    parser.add_argument("--output", type=float, default=plan.output, help="weight of the teacher's chunk; 0: off")
    parser.add_argument(
        "--recent-actions",
        type=int,
        default=plan.recent,
        metavar="N",
        help="tell the router the N actions commanded last; 0 (default): it sees one observation only. "
        "Not for published VLAs",
    )
    parser.add_argument("--no-graph", action="store_true", help="heads read the mean over tokens instead of the graph")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the matrix products (default: float32; see `actdistill train --help`); of a published VLA's weights "
        "too (default: what it is deployed with)",
    )
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="compute layers and heads again in the backward pass instead of keeping what they computed: less memory",
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="each of several processes keeps only its part of the decoders' layers, their gradients and moments; "
        "not for published VLAs",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of new weights and of the order of samples (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of each process on the CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every",
        type=int,
        default=100,
        metavar="STEPS",
        help="steps between two saves, from which a run that was killed goes on (default: %(default)s)",
    )
    parser.add_argument(
        "--controls",
        nargs="*",
        choices=controls.NAMES,
        help=f"train and judge these rivals at the same mean depth; all without a name: {', '.join(controls.NAMES)}. "
        "Not for published VLAs",
    )
    parser.add_argument(
        "--control-budgets",
        type=float,
        nargs="*",
        default=[],
        help="budgets to train and judge the controls at too; not for published VLAs",
    )
    parser.add_argument(
        "--eval-episodes", type=int, help="episodes to judge by; 0: none (default: 100; of a published VLA: 0)"
    )
    parser.add_argument(
        "--eval-seed", type=int, default=90_000, help="of the first; from 100000 on: final numbers only"
    )
    parser.add_argument("--eval-budgets", type=float, nargs="*", default=[], help="budgets to judge the student at too")
    parser.add_argument(
        "--eval-suites", nargs="+", choices=judge.SUITES, default=["tabletop"], help="(default: tabletop)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost, and stop")


@dataclass(frozen=True)
class Plan:
    """What is asked for, in the words of the stages."""

    settings: StudentSettings
    heads: HeadConfig
    probing: ProbingSettings


def run(args: argparse.Namespace) -> int:
    code = _run(args)
    leave()
    return code


def _run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # averages of rarely used weights decay into denormals, which cost a hundredfold
    if layout.is_vla(args.teacher):
        from actdistill_ros.distill.vla import command

        return command.run(args)
    args = filled(args)
    plan = plan_of(args)
    plan.settings.check()
    work = args.work or args.out.with_name(f"{args.out.name}.training")
    check_out(args.out, args.teacher, work)
    processes = Processes.launched(args.split)
    processes.share(args.batch)
    estimate.check_weights(args.teacher, args.out.parent, processes)
    teacher = Teacher(args.teacher, args.data, args.dtype, processes, args.checkpointing)
    layers = teacher.model.config.layers
    check_budgets(args, layers)
    planned = controls.trainings(_controls(args, range(1, layers - 1), layers, plan.settings))
    cost = estimate.of(teacher, plan.settings, plan.heads, plan.probing.steps, tuple(planned), args.out.parent)
    processes.say(str(cost))
    if args.dry_run:
        return 0
    cost.check()
    with owned(work) if processes.main else nullcontext():
        return _distil(args, teacher, plan, work)


def filled(args: argparse.Namespace) -> argparse.Namespace:
    """With the defaults of a teacher of this package's own. Raises DistillError for what only published VLAs have."""
    if args.full or args.rank is not None:
        raise DistillError(f"--full and --rank are for published VLAs; {args.teacher} is none. Leave them out.")
    plan = StudentSettings()
    return with_defaults(args, batch=plan.batch, learning_rate=plan.learning_rate, dtype="float32", eval_episodes=100)


def with_defaults(args: argparse.Namespace, **defaults: object) -> argparse.Namespace:
    """What was left out is as said here."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**{**vars(args), **defaults, **given})


def _distil(args: argparse.Namespace, teacher: Teacher, plan: Plan, work: Path) -> int:
    """All processes train; what comes after is for the main one alone."""
    layers, start = teacher.model.config.layers, time.monotonic()
    heads, errors = probe(teacher, plan.heads, plan.probing, work, args.save_every)
    order = order_of(teacher, depth.elimination_order, work)
    student = _train("student", teacher, heads, order, plan.settings, work, args.out, args.save_every)
    rivals = _controls(args, order, layers, plan.settings)
    for name, one in controls.trainings(rivals).items():
        _train_control(name, one, teacher, heads, order, plan, work, args.save_every)
    if student is None:
        return 0
    curve = held_out_curve(student, teacher, sorted({*CURVE_BUDGETS, plan.settings.budget}))
    if not teacher.processes.main:
        return 0
    seconds = time.monotonic() - start
    judged = judge.all_of(args, rivals, work)
    found = report.Findings(
        teacher=teacher.identity,
        student=checkpoint.identity(args.out),
        budget=plan.settings.budget,
        order=order,
        probe_errors=errors,
        held_out=curve,
        judged=judged,
        latency=judge.latency(args),
        seconds=seconds,
        parameters=sum(p.numel() for p in student.parameters()),
        router_parameters=sum(p.numel() for p in student.router.parameters()),
    )
    report.write(found, args, work, args.out)
    print(f"{args.out}: a student of {teacher.identity}; {args.out / report.TEXT} says how good it is")
    return 0


def check_out(out: Path, teacher: Path, work: Path, file: str = checkpoint.WEIGHTS) -> None:
    """Never overwrite a checkpoint that this run did not make. file: that a finished one has."""
    if out.resolve() == teacher.resolve():
        raise DistillError(f"--out {out} is the teacher itself; give a folder of the student's own.")
    if (out / file).exists() and not (work / "student.pt").exists():
        raise DistillError(f"{out} holds a finished checkpoint and {work} no run of it; give another --out.")


def check_budgets(args: argparse.Namespace, layers: int) -> None:
    for budget in (args.budget, *args.eval_budgets, *args.control_budgets):
        if not LOWEST_BUDGET <= budget <= 1.0:
            raise DistillError(f"budget {budget:g} cannot be met; expected {LOWEST_BUDGET} … 1")
        depth.layers_within(budget, layers)


def _controls(
    args: argparse.Namespace, order: Sequence[int], layers: int, settings: StudentSettings
) -> list[controls.Control]:
    return controls.make(controls.chosen(args.controls), order, layers, settings, args.control_budgets)


def plan_of(args: argparse.Namespace) -> Plan:
    streams = StreamWeights(alpha=args.alpha, beta=args.beta, eta=args.eta)
    settings = StudentSettings(
        budget=args.budget,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
        streams=streams,
        output=args.output,
        recent=args.recent_actions,
    )
    probing = ProbingSettings(steps=args.probe_steps, batch=args.batch, seed=args.seed)
    if min(args.steps, args.probe_steps, args.save_every) < 1:
        raise DistillError("--steps, --probe-steps and --save-every must be 1 or more")
    return Plan(settings, HeadConfig(graph=not args.no_graph), probing)


def probe(
    teacher: Probed, heads: HeadConfig, settings: ProbingSettings, work: Path, save_every: int
) -> tuple[torch.nn.Module, list[float]]:
    """The heads of stage 1, and each layer's probe error."""
    stage = Probing(teacher, heads, settings, "probing" if heads.graph else "probing-no-graph")
    fit(stage, work, save_every, main=teacher.processes.main)
    if not teacher.processes.takes_part:
        return stage.heads, []
    errors = stage.errors()
    teacher.processes.say("what each layer knows of the action (error, share of its variance):")
    teacher.processes.say("  ".join(f"{i}: {error:.3f}" for i, error in enumerate(errors)))
    return stage.heads, errors


def order_of(teacher: Probed, eliminate: Callable[[Probed], list[int]], work: Path) -> list[int]:
    """Computed once per teacher: it takes a while and the student's start depends on it."""
    path = work / "order.json"
    if path.exists() and (found := json.loads(path.read_text()))["teacher"] == teacher.settings:
        return found["order"]
    order = eliminate(teacher)
    if teacher.processes.main:
        path.write_text(json.dumps({"teacher": teacher.settings, "order": order}) + "\n")
    teacher.processes.say(f"layers as they are best given up: {', '.join(map(str, order))}")
    return order


def _train(
    name: str,
    teacher: Teacher,
    heads: torch.nn.Module,
    order: list[int],
    settings: StudentSettings,
    work: Path,
    out: Path,
    save_every: int,
) -> Policy | None:
    """Train, or go on; the main process writes the checkpoint and returns the finished policy."""
    place = depth.places(order, teacher.model.config.layers)
    stage = Student(name, teacher, heads, place, settings)
    fit(stage, work, save_every, main=teacher.processes.main)
    if not teacher.processes.takes_part:
        return None
    model = stage.finished()
    if teacher.processes.main:
        checkpoint.save(out, model, teacher.contract)
    return model


def _train_control(
    name: str,
    control: controls.Control,
    teacher: Teacher,
    heads: torch.nn.Module,
    order: list[int],
    plan: Plan,
    work: Path,
    save_every: int,
) -> None:
    if not control.graph:
        heads, _ = probe(teacher, replace(plan.heads, graph=False), plan.probing, work, save_every)
    _train(name, teacher, heads, order, control.settings, work, work / "controls" / name, save_every)
