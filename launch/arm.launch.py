"""The node graph for `ros2 launch`: what actdistill_ros/bringup.py describes becomes launch actions here."""

import os
import shutil
import signal
from functools import partial

import launch.logging
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessIO, OnShutdown
from launch.utilities.signal_management import AsyncSafeSignalManager
from launch_ros.actions import Node

from actdistill_ros import bringup
from actdistill_ros.launch_arguments import ARGUMENTS, BringupError, mistyped
from actdistill_ros.run_folder import RunFolder
from actdistill_ros.supervisor import HOLD_S, ending, locate
from actdistill_ros.up import already_there
from launch import LaunchDescription

END = {"sigterm_timeout": "2", "sigkill_timeout": "2"}
if shutil.which("setpriv"):
    # A launch that gets SIGTERM, or is killed, leaves its processes behind; the kernel then ends them.
    END["prefix"] = "setpriv --pdeathsig TERM"


def generate_launch_description():
    """Declare the arguments of bringup; what follows from their values is planned when they are known."""
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.meaning,
            choices=list(argument.choices) or None,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context):
    """Plan, lock the namespace, then start the processes in order. Raises before any of them if a value is wrong."""
    values = {argument.name: context.launch_configurations[argument.name] for argument in ARGUMENTS}
    for warning in mistyped(context.launch_configurations):
        launch.logging.get_logger("launch.user").warning(warning)
    graph = bringup.plan(values)
    executables = {node.name: locate(node) for node in graph.nodes}
    folder = RunFolder(graph.folder)
    # The lock lives as long as this launch.
    context.extend_globals({"actdistill_run_folder": folder})
    end_on_sigterm_as_on_ctrl_c()
    settings = [SetEnvironmentVariable(name, text) for name, text in graph.environment.items()]
    notes = [LogInfo(msg=note) for note in graph.notes]
    return [*settings, *notes, OpaqueFunction(function=refuse_a_second_graph, args=[graph]),
            *launch_from(graph, folder, executables, 0)]  # fmt: skip


def end_on_sigterm_as_on_ctrl_c():
    """Launch itself dies of SIGTERM at once; where its signal manager can be reached, the graph ends in order."""
    manager = getattr(AsyncSafeSignalManager, "_AsyncSafeSignalManager__current", None)
    interrupt = manager and manager.handle(signal.SIGINT, None)
    if not interrupt:
        return
    manager.handle(signal.SIGINT, interrupt)
    manager.handle(signal.SIGTERM, lambda _: interrupt(signal.SIGINT))
    # The manager learns of a signal only if Python handles it.
    signal.signal(signal.SIGTERM, lambda *_: None)


def refuse_a_second_graph(context, graph):
    """Nodes of the same names in another graph of this domain would command the same arm."""
    from actdistill_ros.nodes.hold import Holder

    os.environ.update(context.environment)
    holder = Holder(graph.namespace)
    if others := holder.others(tuple(node.name for node in graph.nodes)):
        holder.close()
        raise BringupError(already_there(graph, others))
    context.extend_globals({"actdistill_holder": holder})
    return [RegisterEventHandler(OnShutdown(on_shutdown=lambda *_: holder.close()))]


def launch_from(graph, folder, executables, first):
    """Actions of the nodes from number `first` on, up to one that the others must wait for."""
    actions = []
    for number, node in enumerate(graph.nodes[first:], first):
        process = action_of(graph, folder, node, executables[node.name])
        if node.essential:
            actions.append(
                RegisterEventHandler(OnProcessExit(target_action=process, on_exit=partial(take_down, node=node)))
            )
        if node.ready:
            follow = partial(launch_from, graph, folder, executables, number + 1)
            waiter = WhenItSays(node.ready, follow)
            actions += [RegisterEventHandler(OnProcessIO(target_action=process, on_stdout=waiter)), process]
            return actions
        actions.append(process)
    # Registered after the processes, it runs before they are told to end.
    return [*actions, RegisterEventHandler(OnShutdown(on_shutdown=let_the_arm_hold))]


class WhenItSays:
    """Calls `follow` for more actions once, when a line of output is exactly `line`."""

    def __init__(self, line, follow):
        self.line, self.follow, self.text, self.done = line, follow, "", False

    def __call__(self, event):
        self.text = (self.text + event.text.decode(errors="replace"))[-4096:]
        if self.done or self.line not in self.text.splitlines():
            return None
        self.done = True
        return self.follow()


def action_of(graph, folder, node, executable):
    """The launch action of one process."""
    if not node.ros:
        return ExecuteProcess(cmd=[str(executable), *node.arguments], name=node.name, output="screen", **END)
    parameters = folder.write_parameters(node.name, node.parameters)
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        exec_name=node.name,
        namespace=graph.namespace.lstrip("/"),
        parameters=[str(parameters)],
        remappings=list(node.remappings.items()),
        arguments=list(node.arguments),
        ros_arguments=["--log-level", graph.log_level],
        output="screen",
        **END,
    )


def take_down(event, context, node):
    """An essential process ended by itself: everything stops, and `ros2 launch` ends with 1."""
    if not context.is_shutdown:
        raise RuntimeError(f"{node.name} {ending(event.returncode)}. The whole graph is stopped.")


def let_the_arm_hold(event, context):
    """Whatever ends the launch, the arm holds before its masters are gone."""
    context.get_locals_as_dict()["actdistill_holder"].hold(HOLD_S)
