"""How every node of this package comes up, spins and ends: autostart, clean stop on a signal, exit code 0 or 1."""

from __future__ import annotations

import functools
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from actdistill_ros.leave import leave
from actdistill_ros.nodes import delivery

_STOP_S = 0.6
"""How long the executor, and then its thread, may take to end after a signal before the process ends without them."""


def run(
    node_class: type[LifecycleNode], args: list[str] | None = None, begin: Callable[[LifecycleNode], None] | None = None
) -> NoReturn:
    """Make `node_class(context=…)`, bring it up, spin until SIGINT or SIGTERM; then the process ends, with 0 or 1.

    The executor spins in a thread of its own and this thread waits for the signal. After it no callback runs any more,
    then the node's `on_shutdown` runs while the context still works, so that it can publish its last words.
    `begin` is called with the node in the executor's thread, before its first callback.
    A node that cannot come up, or a callback that raises, ends the process with 1 and the reason in the log.
    """
    leave(_run(node_class, args, begin or (lambda node: None)))


def _run(node_class: type[LifecycleNode], args: list[str] | None, begin: Callable[[LifecycleNode], None]) -> int:
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    context = Context()
    rclpy.init(args=args, context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = node_class(context=context)
    except Exception as error:
        rclpy.logging.get_logger(node_class.__name__).fatal(_words(error))
        rclpy.try_shutdown(context=context)
        return 1
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=_spin, args=(executor, node, stop, begin), daemon=True)
    up = autostart(node)
    if up:
        spinning.start()
        stop.wait()
    executor.shutdown(timeout_sec=_STOP_S)
    node.executor = None  # what its way down still asks for must not wait for an executor that ended
    if up:
        spinning.join(_STOP_S)
    _let_go(node)
    if not spinning.is_alive():
        node.destroy_node()
    rclpy.try_shutdown(context=context)
    return 0 if up and not stop.crashed else 1


class _Stop:
    """The wish to end, from a signal or a thread; made in the main thread.

    It is waited for on a pipe: a lock may be held by the very thread that the signal interrupts, and none wakes up
    where the kernel gives the signal to another thread, as it does after Ctrl-Z or a suspended machine.
    """

    def __init__(self) -> None:
        self.asked = self.crashed = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def set(self) -> None:
        self.asked = True
        with suppress(BlockingIOError):  # full of wishes
            os.write(self._writer, b"\0")

    def wait(self) -> None:
        os.read(self._reader, 1)
        self.asked = True


def autostart(node: LifecycleNode) -> bool:
    """Configure and activate the node if its boolean parameter `autostart` (declared here, default true) says so.

    Returns False if a transition failed; the node has logged why. True if the node is active or was told to wait.
    """
    if not node.has_parameter("autostart"):
        node.declare_parameter("autostart", True)
    if not node.get_parameter("autostart").value:
        node.get_logger().info("waits for a lifecycle manager: autostart is false")
        return True
    for name, transition in (("configure", node.trigger_configure), ("activate", node.trigger_activate)):
        if transition() != TransitionCallbackReturn.SUCCESS:
            node.get_logger().fatal(f"{node.get_name()} did not {name}; the reason stands above")
            return False
    return True


def says_why(callback: Callable) -> Callable:
    """Decorator of `on_configure` and `on_activate`: an exception is logged and becomes FAILURE; rclpy drops it."""

    @functools.wraps(callback)
    def wrapped(self: LifecycleNode, state) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            self.get_logger().error(_words(error))
            return TransitionCallbackReturn.FAILURE

    return wrapped


def _spin(executor, node: LifecycleNode, stop: _Stop, begin: Callable[[LifecycleNode], None]) -> None:
    try:
        begin(node)
        delivery.spin(executor, node.get_logger(), lambda: stop.asked)
    except ExternalShutdownException:
        pass
    except Exception as error:
        if not stop.asked:
            stop.crashed = True
            node.get_logger().fatal(f"{node.get_name()} ends: {_trace(error)}")
    finally:
        stop.set()


def _let_go(node: LifecycleNode) -> None:
    """Run the node's way down; whatever goes wrong here must not keep the process alive."""
    try:
        node.trigger_shutdown()
    except Exception as error:
        node.get_logger().warning(f"{node.get_name()} did not shut down in order: {_words(error)}")


def _words(error: Exception) -> str:
    """Errors that this package words are shown as they are; surprises keep their traceback."""
    if isinstance(error, (ValueError, RuntimeError, OSError)) and str(error):
        return str(error)
    return _trace(error)


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error)).rstrip()
