"""`actdistill teleop`: jog a running arm from this terminal, with a gamepad, SpaceMouse or what is on a serial line."""

from __future__ import annotations

import argparse
import os

SOURCES = ("keyboard", "joy", "spacemouse", "serial")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=SOURCES, help="what the operator holds")
    parser.add_argument("--frame", choices=("base", "tool"), default="base", help="frame of the motion (default: base)")
    parser.add_argument("--scale", type=float, default=0.5, help="share of the jog speeds (default: %(default)s)")
    parser.add_argument(
        "--port",
        default="",
        metavar="DEVICE",
        help="port of a serial device, such as /dev/ttyUSB0; of a SpaceMouse, if there are several",
    )
    parser.add_argument("--namespace", default="", help="ROS namespace of the arm")


def run(args: argparse.Namespace) -> int:
    # Imported late: a wrong argument is refused without ROS, and in a fraction of the time.
    from actdistill_ros.bringup import middleware
    from actdistill_ros.nodes.teleop_node import main

    os.environ.update(middleware())
    return main(ros_arguments(args))


def ros_arguments(args: argparse.Namespace) -> list[str]:
    """Command line of teleop_node."""
    port = "device" if args.source == "spacemouse" else "serial_port"
    parameters = {"source": args.source, "frame": args.frame, "scale": args.scale, port: f"'{args.port}'"}
    words = [word for name, text in parameters.items() for word in ("-p", f"{name}:={text}")]
    namespace = ["-r", f"__ns:=/{args.namespace.strip('/')}"] if args.namespace.strip("/") else []
    return ["--ros-args", *namespace, *words]
