"""What the middleware refuses to carry is lost, with a warning; who wanted to say it lives on.

Fast DDS refuses a message now and then where a machine is short of time or memory, and rclpy raises that out of the
callback: a driver must not leave its arm because one of fifty states a second could not be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rclpy.executors import Executor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.impl.rcutils_logger import RcutilsLogger

Refused = rclpy_implementation.RCLError
"""Raised by publishing, asking and answering. What must hold whether or not it was heard is done before."""
_BREATH_S = 0.01
_PATIENCE_S = 5.0
"""A middleware that lets nothing at all through for so long is not short of something: it is broken."""


@contextmanager
def survived(log: RcutilsLogger) -> Iterator[None]:
    """What the middleware refuses inside is lost; the log says so."""
    try:
        yield
    except Refused as error:
        _warn(log, error)


def spin(executor: Executor, log: RcutilsLogger, ended: Callable[[], bool]) -> None:
    """Run callbacks until `ended`, which is asked after each; a refused message is lost and the next callback runs.

    Raises what else a callback raises, and Refused where nothing succeeds any more.
    """
    failing_since_s: float | None = None
    while not ended():
        try:
            executor.spin_once()
            failing_since_s = None
        except Refused as error:
            failing_since_s = failing_since_s or time.monotonic()
            if time.monotonic() - failing_since_s > _PATIENCE_S:
                raise
            _warn(log, error)
            time.sleep(_BREATH_S)


def _warn(log: RcutilsLogger, error: Exception) -> None:
    log.warning(f"a message is lost, the middleware refused it: {error}", throttle_duration_sec=1.0)
