"""The command `actdistill`: a table from subcommand to module; each module is imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

COMMANDS = {
    "up": ("actdistill_ros.up", "bring the arm up: driver, cameras, policy, monitor"),
    "collect": ("actdistill_ros.data.collect", "record episodes of the scripted expert"),
    "dataset import": ("actdistill_ros.data.importing", "a LeRobot or RLDS data set from elsewhere into one of ours"),
    "dataset verify": ("actdistill_ros.data.verify", "read and decode all of a data set, and name what is wrong"),
    "train": ("actdistill_ros.policy.train", "train a policy on recorded episodes"),
    "distill": ("actdistill_ros.distill.command", "distil a teacher into a student that runs a share of its layers"),
    "eval": ("actdistill_ros.trials.evaluate", "closed-loop success of a checkpoint in the simulator, without ROS"),
    "teleop": ("actdistill_ros.teleop.command", "jog a running arm by keyboard, gamepad, or what is on a serial line"),
    "trials": ("actdistill_ros.trials.run", "task trials through the running graph, with a report"),
    "bench images": ("actdistill_ros.bench.images", "image delivery and latency, camera to inference"),
    "bench driver": ("actdistill_ros.bench.driver", "bad commands, punctuality and faults of the arm driver"),
    "bench ik": ("actdistill_ros.bench.ik", "the driver's inverse kinematics against the vendor SDK's solver"),
    "bench depth": ("actdistill_ros.bench.depth", "time of the decoder under a plan, against all layers"),
    "doctor": ("actdistill_ros.doctor", "what this machine has and what it lacks"),
    "doctor arm": ("actdistill_ros.arm.doctor", "the arm's adapter, bus and motors: what is wrong and how to mend it"),
}
"""Each module has `add_arguments(parser)` and `run(args) -> exit code`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: that of the subcommand, 2 for wrong usage or input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = select(words)
    if name is None:
        return usage(words)
    try:
        module = importlib.import_module(COMMANDS[name][0])
        parser = argparse.ArgumentParser(f"actdistill {name}", description=_first_sentence(module))
        module.add_arguments(parser)
        return module.run(parser.parse_args(rest)) or 0
    except KeyboardInterrupt:
        print(f"\nactdistill {name}: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(
            f"actdistill {name} needs the Python module {error.name}, which is not here. Run make setup.",
            file=sys.stderr,
        )
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        if not expected(error):
            raise
        print(f"actdistill {name}: {error}", file=sys.stderr)
        return 2


def select(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The longest subcommand that the words begin with, and what follows it."""
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            return name, list(words[length:])
    return None, list(words)


def usage(words: Sequence[str]) -> int:
    """The table; 0 if it was asked for, 2 if the words are no subcommand."""
    asked = bool(words) and words[0] in ("-h", "--help")
    group = [name for name in COMMANDS if words and name.startswith(f"{words[0]} ")]
    lines = [f"  {name:<16}{text}" for name, (_, text) in COMMANDS.items() if not group or name in group]
    text = "\n".join(["usage: actdistill SUBCOMMAND …; actdistill SUBCOMMAND --help says more", "", *lines])
    if words and not asked and not group:
        print(f"actdistill: no subcommand {words[0]!r}\n", file=sys.stderr)
    print(text, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def expected(error: Exception) -> bool:
    """Whether the error is a sentence for the user: one of this package, or about a file; others are faults of ours."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "actdistill_ros"


def _first_sentence(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0].rpartition("`: ")[2]


if __name__ == "__main__":
    sys.exit(main())
