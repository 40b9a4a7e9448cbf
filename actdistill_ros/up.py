"""`actdistill up`: the node graph without launch tools."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from actdistill_ros.bringup import Graph, plan
from actdistill_ros.launch_arguments import ARGUMENTS, BringupError
from actdistill_ros.run_folder import RunFolder
from actdistill_ros.supervisor import Supervisor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for argument in ARGUMENTS:
        options = f" ({', '.join(argument.choices)})" if argument.choices else ""
        default = f"; default: {argument.default}" if argument.default else ""
        parser.add_argument(f"--{argument.name.replace('_', '-')}", dest=argument.name, metavar="VALUE",
                            help=f"{argument.meaning}{options}{default}")  # fmt: skip
    parser.add_argument(
        "assignments", nargs="*", metavar="name:=value", help="the same arguments as `ros2 launch` takes them"
    )


def values(args: argparse.Namespace) -> dict[str, str]:
    """What the user gave, by argument name."""
    given = {
        argument.name: getattr(args, argument.name)
        for argument in ARGUMENTS
        if getattr(args, argument.name) is not None
    }
    for assignment in args.assignments:
        name, separator, text = assignment.partition(":=")
        if not separator:
            raise BringupError(f"{assignment!r} is not of the form name:=value.")
        given[name] = text
    return given


def run(args: argparse.Namespace) -> int:
    graph = plan(values(args))
    return bring_up(graph)


def bring_up(graph: Graph) -> int:
    """Run the graph until a signal or the end of a node; the exit code."""
    os.environ.update(graph.environment)
    folder = RunFolder(graph.folder)
    try:
        for note in (*graph.notes, *log_folder(folder)):
            print(f"[bringup] {note}", flush=True)
        return supervise(graph, folder)
    finally:
        folder.release()


def supervise(graph: Graph, folder: RunFolder) -> int:
    # Imported late: arguments are refused without ROS, and in a fraction of the time.
    from actdistill_ros.nodes.hold import Holder

    holder = Holder(graph.namespace)
    try:
        if others := holder.others(tuple(node.name for node in graph.nodes)):
            raise BringupError(already_there(graph, others))
        return Supervisor(graph, folder, holder.hold).run()
    finally:
        holder.close()


def already_there(graph: Graph, others: list[str]) -> str:
    """What is wrong when nodes of the same names are seen before the graph starts, and how to mend it."""
    return (
        f"namespace {graph.namespace} of this ROS domain has another graph's {', '.join(others)}. Stop that graph, "
        "or give this one its own namespace:=name or ROS_DOMAIN_ID."
    )


def log_folder(folder: RunFolder, make: Callable[[Path], None] | None = None) -> tuple[str, ...]:
    """ROS logs go into the run folder if their usual place cannot be written; a node would not start without one."""
    if os.environ.get("ROS_LOG_DIR") or os.environ.get("ROS_HOME"):
        return ()
    usual = Path("~/.ros/log").expanduser()
    try:
        (make or (lambda path: path.mkdir(parents=True, exist_ok=True)))(usual)
        if os.access(usual, os.W_OK):
            return ()
    except (OSError, RuntimeError):
        pass
    os.environ["ROS_LOG_DIR"] = str(folder.folder / "log")
    return (f"{usual} cannot be written; logs are in {os.environ['ROS_LOG_DIR']}",)
