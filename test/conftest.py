"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from actdistill_ros import bringup

os.environ.update(bringup.middleware())
"""Tests speak over the transport that is shipped; set before ROS starts in this process."""


signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell that runs the tests in its background has them ignore Ctrl-C, and every process that they start would too."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Python looks through what modules and earlier tests left between modules only: with torch loaded that takes
    0.4 s, longer than a driver waits for its operator, and its ticks run in this process here. What a test itself left
    is collected at its end: ROS nodes that live on take up the 32 places where the middleware looks for others."""
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.unfreeze()
        if nextitem is None or nextitem.path != item.path:
            gc.collect()
