"""`actdistill bench driver`: what the driver makes of bad commands, how punctual it is, what faults end in."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from actdistill_ros.bench import bus_fuzz, driver_faults, ticks
from actdistill_ros.bench.fuzz import Findings, Fuzz
from actdistill_ros.bench.ticks import Punctuality
from actdistill_ros.control import settings
from actdistill_ros.control.arm_models import MODELS
from actdistill_ros.control.settings import DriverSettings
from actdistill_ros.trials.report import machine

BAR_LATE_MS = 2.0
SHOWN = 10
PARTS = 20
"""The fuzz runs in this many parts, each with a seed of its own, so that its progress can be told."""


NO_BUS = {"commands": 0, "frames": 0, "violations": [], "worst_step_rad": [0.0] * 6}
NO_FAULTS = {"injected": 0, "safe": 0, "prompt": 0, "worst_ms": 0.0, "rows": []}


class BenchError(ValueError):
    """An argument that does not fit; the text says what does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--commands", type=int, default=100_000,
        help="bad commands for the driver core, and as many through it onto the emulated bus (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=20.0, help="how long punctuality is measured (%(default)s s)")
    parser.add_argument("--rate", type=float, default=200.0, help="ticks per second meanwhile (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="policy that computes beside the driver meanwhile")
    parser.add_argument(
        "--model", choices=list(MODELS), default="X5",
        help="arm that gets the bad commands; faults are injected into an X5 only (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-bus", action="store_true", help="leave out what needs the vendor SDK on the emulated bus")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzz (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def run(args: argparse.Namespace) -> int:
    limits = settings.load(model=args.model)
    if args.commands < PARTS or args.seconds < 1.0 or not limits.state_hz <= args.rate <= 1000.0 or args.seed < 0:
        raise BenchError(
            f"--commands {args.commands} --seconds {args.seconds} --rate {args.rate} --seed {args.seed}: expected at "
            f"least {PARTS} commands, 1 s, {limits.state_hz:g} … 1000 Hz, a seed from 0 on"
        )
    if args.checkpoint:
        ticks.check(args.checkpoint)  # the fuzz before it takes minutes
    found = fuzz(limits, args.commands, args.seed)
    punctual = ticks.measure(limits, args.rate, args.seconds, args.checkpoint)
    ordinary = punctual
    if punctual.real_time:
        ordinary = ticks.measure(limits, args.rate, args.seconds, args.checkpoint, ordinary=True)
    on_bus, faults = (NO_BUS, NO_FAULTS) if args.no_bus else _on_the_bus(args.model, args.commands, args.seed)
    report = summary(limits, found, punctual, ordinary, on_bus, faults) | {
        "model": args.model, "rate_hz": args.rate, "checkpoint": str(args.checkpoint or ""), "seed": args.seed,
        "load_average": round(os.getloadavg()[0], 2), **machine(),
    }  # fmt: skip
    _print(report, found)
    if args.json:
        args.json.write_text(json.dumps(_finite(report), indent=1) + "\n")
    return 1 if report["fuzz_violations"] or faults["safe"] < faults["injected"] else 0


def _on_the_bus(model: str, commands: int, seed: int) -> tuple[dict, dict]:
    """Bad commands, and faults of an X5, each on an emulated bus of its own, in folders whose names leave room for
    sockets."""
    print(f"the unmodified vendor SDK on the emulated bus: {commands} bad commands", flush=True)
    with tempfile.TemporaryDirectory(prefix="ad-") as first, tempfile.TemporaryDirectory(prefix="ad-") as second:
        home_rad = MODELS[model].home_rad
        found = bus_fuzz.run(Path(first), home_rad, commands, seed, model)
        return found, driver_faults.run(Path(second), home_rad) if model == "X5" else NO_FAULTS


def fuzz(limits: DriverSettings, commands: int, seed: int) -> Findings:
    """All parts together."""
    total, began = Findings(), time.monotonic()
    for part in range(PARTS):
        count = commands * (part + 1) // PARTS - commands * part // PARTS
        found = Fuzz(limits, seed * PARTS + part).run(count)
        total = _together(total, found)
        left_s = (time.monotonic() - began) / (part + 1) * (PARTS - part - 1)
        print(f"\rfuzz: {total.commands} of {commands} commands, {left_s:.0f} s left   ", end="", flush=True)
    print()
    return total


def _together(one: Findings, other: Findings) -> Findings:
    return Findings(
        commands=one.commands + other.commands,
        ticks=one.ticks + other.ticks,
        speed=max(one.speed, other.speed),
        acceleration=max(one.acceleration, other.acceleration),
        jerk=max(one.jerk, other.jerk),
        tcp_speed_m_s=max(one.tcp_speed_m_s, other.tcp_speed_m_s),
        stop_tcp_speed_m_s=max(one.stop_tcp_speed_m_s, other.stop_tcp_speed_m_s),
        tcp_turn_rad_s=max(one.tcp_turn_rad_s, other.tcp_turn_rad_s),
        outside_workspace_m=max(one.outside_workspace_m, other.outside_workspace_m),
        clearance_m=min(one.clearance_m, other.clearance_m),
        sent=one.sent + other.sent,
        accepted=one.accepted + other.accepted,
        violations=one.violations + other.violations,
    )


def summary(
    limits: DriverSettings, found: Findings, punctual: Punctuality, ordinary: Punctuality, on_bus: dict, faults: dict
) -> dict:
    """The keys of the JSON file; worst commanded values in rad/s, rad/s², rad/s³. ordinary: what was measured without
    real-time priority."""
    return {
        "late_p99_ms": punctual.late_p99_ms,
        "missed_ticks": punctual.missed_ticks,
        "fuzz_commands": found.commands,
        "fuzz_violations": len(found.violations) + len(on_bus["violations"]),
        "faults": faults,
        "bus_fuzz": {**on_bus, "violations": on_bus["violations"][:SHOWN]},
        "fuzz": {
            "ticks": found.ticks,
            "sent": dict(found.sent),
            "accepted": dict(found.accepted),
            "worst_speed_rad_s": found.speed * float(limits.joint_speed_limit.max()),
            "worst_acceleration_rad_s2": found.acceleration * limits.joint_acceleration_limit_rad_s2,
            "worst_jerk_rad_s3": found.jerk * limits.joint_jerk_limit_rad_s3,
            "worst_share": {"speed": found.speed, "acceleration": found.acceleration, "jerk": found.jerk},
            "worst_tcp_speed_m_s": found.tcp_speed_m_s,
            "worst_tcp_speed_in_a_stop_m_s": found.stop_tcp_speed_m_s,
            "worst_tcp_turn_rad_s": found.tcp_turn_rad_s,
            "outside_workspace_m": found.outside_workspace_m,
            "least_clearance_m": found.clearance_m,
            "violations": found.violations[:SHOWN],
        },
        "ticks": asdict(punctual),
        "ticks_ordinary": asdict(ordinary),
    }


def _finite(value: object) -> object:
    """JSON knows no infinity: what was never reached is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(report: dict, found: Findings) -> None:
    worst = report["fuzz"]
    print(f"fuzz: {report['fuzz_commands']} commands, {worst['ticks']} ticks, {report['fuzz_violations']} violations")
    print(
        f"  worst commanded speed {worst['worst_share']['speed']:.1%} of its limit, acceleration "
        f"{worst['worst_acceleration_rad_s2']:.1f} rad/s², jerk {worst['worst_jerk_rad_s3']:.0f} rad/s³"
    )
    print(
        f"  worst TCP speed {worst['worst_tcp_speed_m_s']:.3f} m/s, in a stop "
        f"{worst['worst_tcp_speed_in_a_stop_m_s']:.3f} m/s, turning {worst['worst_tcp_turn_rad_s']:.2f} rad/s"
    )
    if report["bus_fuzz"]["commands"]:
        print(f"  on the bus: {report['bus_fuzz']['commands']} commands, {report['bus_fuzz']['frames']} frames")
    for words in [*found.violations, *report["bus_fuzz"]["violations"]][:SHOWN]:
        print(f"  violation: {words}")
    _print_ticks(report["rate_hz"], report["ticks"])
    if report["ticks"]["real_time"]:
        _print_ticks(report["rate_hz"], report["ticks_ordinary"])
    if report["faults"]["injected"]:
        for row in report["faults"]["rows"]:
            print(f"  {row['name']}: {row['end']}, named {row['delay_ms']} ms after it could be known, "
                  f"{row['named_ms']} ms after the injection{'' if row['safe'] else ', NOT SAFE'}")  # fmt: skip
        print(f"faults: {report['faults']['safe']} of {report['faults']['injected']} end in hold or damping, named; "
              f"{report['faults']['prompt']} within {driver_faults.PROMPT_MS:g} ms of detection "
              f"(worst {report['faults']['worst_ms']} ms)")  # fmt: skip
    if report["load_average"] > report["threads"]:
        print(f"the machine is busy (load {report['load_average']:g} on {report['threads']} threads): "
              "measure punctuality again when it is idle")  # fmt: skip


def _print_ticks(rate_hz: float, ticked: dict) -> None:
    met = "met" if ticked["late_p99_ms"] < BAR_LATE_MS else "MISSED"
    print(f"ticks at {rate_hz:g} Hz, {'real-time' if ticked['real_time'] else 'ordinary'} priority: {ticked['ticks']}, "
          f"late p50 {ticked['late_p50_ms']} ms, p99 {ticked['late_p99_ms']} ms (bar {BAR_LATE_MS:g} ms: {met}), "
          f"{ticked['missed_ticks']} missed, "
          f"{'beside a computing policy' if ticked['beside_policy'] else 'no policy beside them'}")  # fmt: skip
