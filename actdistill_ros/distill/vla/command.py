"""`actdistill distill` with a published VLA as the teacher: the stages of the package's own teachers, on its
decoder."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from actdistill_ros.distill import command, depth, judge, report
from actdistill_ros.distill.loop import DistillError, fit
from actdistill_ros.distill.ownership import owned
from actdistill_ros.distill.processes import Processes
from actdistill_ros.distill.report import Columns, Findings
from actdistill_ros.distill.vla import estimate, measures, samples
from actdistill_ros.distill.vla.student import VlaStudent
from actdistill_ros.distill.vla.teacher import VlaTeacher, deployed
from actdistill_ros.policy import loading
from actdistill_ros.policy.vla import layout, student_folder

UNSUPPORTED = {  # option: its value where it is not given, what to do instead
    "split": (
        False,
        "each process holds the whole teacher; take bfloat16, --checkpointing or a smaller --batch instead",
    ),
    "controls": (None, "judge the student at other budgets instead (--eval-budgets)"),
    "control_budgets": ([], "judge the student at other budgets instead (--eval-budgets)"),
    "recent_actions": (0, "its router sees one observation"),
}
_SHARED = (("to the teacher", "output"), ("actions apart", "apart"), ("student's error", "error"))
_MEANING = (
    "The share of layers that ran is what the calibrated thresholds gave. Actions are in normalised units: mean "
    "absolute difference between student and teacher (apart), of either from what was recorded (error)."
)
WORDS = Columns(
    f"{_MEANING} Each word is said after the recorded ones before it: cross-entropy with the recorded words and the "
    "end; divergence from the teacher's choice of action words; share of words that are the teacher's.",
    (("cross-entropy", "task"), *_SHARED, ("teacher's error", "teacher_error"), ("same words", "agreement")),
    (
        ("words, to the recorded ones", "task"),
        ("words, to the teacher", "output"),
        ("actions, to the teacher", "apart"),
    ),
)
NOISE = Columns(
    f"{_MEANING} Error of the noise that the head sees; its difference from what the teacher's head sees; chunks "
    "sampled from the same noise; share of gripper decisions that are the teacher's.",
    (("noise error", "task"), *_SHARED, ("teacher's error", "teacher_error"), ("same gripper", "agreement")),
    (("noise", "task"), ("noise, to the teacher", "output"), ("actions, to the teacher", "apart")),
)


def run(args: argparse.Namespace) -> int:
    """Raises DistillError, ContractError or DataError, before anything is trained, for what does not fit."""
    told, dtype = deployed(args.teacher, args.dtype)
    args = filled(args, dtype)
    plan, rank, work = command.plan_of(args), _rank(args), args.work or args.out.with_name(f"{args.out.name}.training")
    plan.settings.check()
    command.check_budgets(args, layout.read(args.teacher).shape.decoder.layers)
    student_folder.check(args.out, args.teacher)
    command.check_out(args.out, args.teacher, work, layout.ROUTER)
    judge.check(args)
    processes = Processes.launched()
    fits = samples.check_said(args.data, args.teacher, told, args.batch)
    cost = estimate.of(
        args.teacher, args.data, dtype, plan.settings, rank, plan.heads, args.probe_steps, args.checkpointing,
        args.out.parent, processes,
    )  # fmt: skip
    processes.say(f"{fits}\n{cost}")
    if args.dry_run:
        return 0
    cost.check()
    teacher = VlaTeacher(args.teacher, args.data, dtype, processes, args.checkpointing)
    with owned(work) if processes.main else nullcontext():
        return _distil(args, teacher, plan, rank, work)


def filled(args: argparse.Namespace, dtype: str) -> argparse.Namespace:
    """With the defaults of a published teacher. Raises DistillError for what such a teacher has not."""
    for name, (absent, instead) in UNSUPPORTED.items():
        if getattr(args, name) != absent:
            raise DistillError(f"--{name.replace('_', '-')} is not for published VLAs: {instead}.")
    if args.full and args.rank is not None:
        raise DistillError("--full trains without adapters, --rank says how wide those are; give one of the two.")
    rate = command.VLA_FULL_RATE if args.full else command.StudentSettings().learning_rate
    return command.with_defaults(
        args, batch=command.VLA_BATCH, learning_rate=rate, dtype=dtype, eval_episodes=0,
        rank=None if args.full else command.VLA_RANK,
    )  # fmt: skip


def _rank(args: argparse.Namespace) -> int:
    """0: all of the decoder."""
    if args.full:
        return 0
    if args.rank < 1:
        raise DistillError(f"--rank is {args.rank}, expected 1 or more; give --full to train without adapters.")
    return args.rank


def _distil(args: argparse.Namespace, teacher: VlaTeacher, plan: command.Plan, rank: int, work: Path) -> int:
    """All processes train; what comes after is for the main one alone."""
    start = time.monotonic()
    heads, errors = command.probe(teacher, plan.heads, plan.probing, work, args.save_every)
    order = command.order_of(teacher, measures.elimination_order, work)
    place = depth.places(order, teacher.shape.layers)
    student = VlaStudent("student", teacher, heads, place, plan.settings, rank)
    fit(student, work, args.save_every, main=teacher.processes.main)
    if not teacher.processes.main:
        return 0
    student.finish()
    student_folder.save(args.out, args.teacher, student.tensors(), student.router, args.budget)
    curve = measures.held_out_curve(student, sorted({*command.CURVE_BUDGETS, args.budget}))
    seconds = time.monotonic() - start
    found = Findings(
        teacher=teacher.identity,
        student=loading.identity(args.out),
        budget=args.budget,
        order=order,
        probe_errors=errors,
        held_out=curve,
        judged={},
        latency={},
        seconds=seconds,
        parameters=teacher.parameters + sum(p.numel() for p in student.router.parameters()),
        router_parameters=sum(p.numel() for p in student.router.parameters()),
    )
    columns = WORDS if teacher.head.words else NOISE
    more = ("--full",) if args.full else ("--rank", rank)
    write = partial(report.write, args=args, work=work, out=args.out, columns=columns, more=more)
    write(found)  # whatever becomes of judging, days of training are told of
    if judged := judge.all_of(args, (), work):
        write(replace(found, judged=judged))
    print(f"{args.out}: a student of {teacher.identity}; {args.out / report.TEXT} says how good it is")
    return 0
