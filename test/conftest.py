"""What holds for every test."""

from __future__ import annotations

import gc
import os

import pytest

from actdistill_ros import bringup

os.environ.update(bringup.middleware())
"""Tests speak over the transport that is shipped; set before ROS starts in this process."""


@pytest.fixture(autouse=True)
def quick_collections():
    """Python looks through what modules and earlier tests left between tests only: with torch loaded that takes 0.4 s,
    longer than a driver waits for its operator, and its ticks run in this process here."""
    gc.freeze()
    yield
    gc.unfreeze()
