"""Who gets the processor first: threads that must be punctual, before those that compute.

Nothing here is needed for the arm to move; without permission the machine is asked for less, and the answer says so.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import threading

BUS, TICK, GUARD = 26, 28, 30
"""Real-time priorities: the vendor SDK's threads, the driver's tick, and the guard, which must always be able to kill
an SDK that spins. Those of the kernel's interrupts are 50."""
NEEDED = 40
"""What `ulimit -r` should say; a lower limit is used as far as it goes."""
SPIN_S = 0.5
"""The kernel ends a process whose real-time thread computes for so long without a pause: it must never hold up the
machine. Behind a dead driver, guard or SDK the motors damp."""
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter when another one waits for it."""
NICE = -10
"""Of threads that serve a punctual one: it waits while they hold the interpreter."""


def claim(priority: int) -> str:
    """Real-time priority for the calling thread; its children start without. Why it has none and how to allow it, or
    empty."""
    return _claim(0, priority)


def claim_all(priority: int) -> str:
    """The same for all threads that this process has now, those of libraries too."""
    whys = [_claim(int(thread), priority) for thread in os.listdir("/proc/self/task")]
    return next(filter(None, whys), "")


def refusal() -> str:
    """Why threads of this process get no real-time priority, or empty; tried with a thread of its own."""
    whys: list[str] = []
    thread = threading.Thread(target=lambda: whys.append(claim(TICK)))
    thread.start()
    thread.join()
    return whys[0]


def _claim(thread: int, priority: int) -> str:
    allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    level = min(priority, allowed) if allowed > 0 else priority
    try:
        _limit_spinning()
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(level))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return (
            f"no real-time priority ({why}): on a busy machine the arm's ticks come late. Allow it: "
            f'echo "$USER - rtprio {NEEDED}" | sudo tee /etc/security/limits.d/actdistill.conf, then log in again; '
            "docs/real_arm.md says more"
        )
    return ""


def _limit_spinning() -> None:
    """Lowers RLIMIT_RTTIME of this process and its children; raises ValueError if that is refused."""
    wanted = int(SPIN_S * 1e6)
    soft, hard = (
        wanted if now == resource.RLIM_INFINITY else min(now, wanted)
        for now in resource.getrlimit(resource.RLIMIT_RTTIME)
    )
    resource.setrlimit(resource.RLIMIT_RTTIME, (soft, hard))


def steady() -> None:
    """Short pauses for the threads of this process: what lives now is not searched for garbage any more, and the
    interpreter changes hands quickly."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


def serve() -> None:
    """Go before others of ordinary priority, where this thread may; it serves a punctual one."""
    _nice(min(NICE, _niceness()))


def step_back(nice: int) -> None:
    """Let others go first by `nice` steps more, 0 … 19: for a thread that computes, and for threads it starts."""
    _nice(_niceness() + nice)


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _nice(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except OSError:
        pass  # without permission it stays as it was started
