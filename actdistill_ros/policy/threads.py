"""What a policy may have of the processor: its threads, who goes first, and the step that runs there."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from actdistill_ros import priority
from actdistill_ros.contract.observation import Observation


@dataclass(frozen=True)
class Step:
    """One step of the policy in the worker; task: the number of the task it is for."""

    task: int
    observation: Observation
    result: Future


def use_threads(threads: int) -> int:
    """For this process, from now on; 0: all cores but one, so that one is left for whoever drives the arm. The
    number."""
    threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
    torch.set_num_threads(threads)
    return threads


def worker(nice: int) -> ThreadPoolExecutor:
    """One thread to compute in, which lets others go first by `nice` steps; so do the threads that torch starts for
    it."""
    return ThreadPoolExecutor(1, "policy", priority.step_back, (nice,))
