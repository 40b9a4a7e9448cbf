"""The graph as a child: it starts with the right arguments, its end is told, and it never outlives the trials."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actdistill_ros.trials.graph import GraphProcess
from actdistill_ros.trials.protocol import TrialsError

WAIT_S = 20.0


def until(condition, what: str):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {WAIT_S:g} s for {what}")


def said(process: GraphProcess, text: str) -> bool:
    return text in process.log.read_text()


def test_a_graph_that_refuses_to_start_is_told_with_its_words(tmp_path):
    graph = GraphProcess({"checkpoint": "models/none"}, tmp_path / "log" / "graph.log")
    with pytest.raises(TrialsError, match=r"graph ended with 2.*\n.*models/none is no folder"):
        until(lambda: graph.check(), "the refusal")
    graph.close()


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("told", flush=True))
print("up", flush=True)
time.sleep(60)
"""
POLITE = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("down in order", flush=True)
"""


def start(script: str, log: Path) -> GraphProcess:
    """A GraphProcess that runs `script` in place of the graph."""
    return GraphProcess({}, log, command=(sys.executable, "-c", script))


def test_it_is_asked_to_stop_and_waited_for(tmp_path):
    graph = start(POLITE, tmp_path / "log")
    until(lambda: said(graph, "up"), "the start")
    graph.check()
    graph.close()
    assert said(graph, "down in order")
    graph.close()


def test_one_that_does_not_stop_is_killed(tmp_path):
    graph = start(STUBBORN, tmp_path / "log")
    until(lambda: said(graph, "up"), "the start")
    begin = time.monotonic()
    graph.close(stop_s=2.0)
    assert said(graph, "told") and time.monotonic() - begin < 15.0
    with pytest.raises(TrialsError, match="graph ended with -"):
        graph.check()


def test_it_ends_even_if_the_trials_are_killed(tmp_path):
    code = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "import time; from pathlib import Path; from test_trials_graph import POLITE, start\n"
        f"graph = start(POLITE, Path({str(tmp_path / 'log')!r}))\nprint(graph.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    until(lambda: (tmp_path / "log").read_text() == "up\n", "the start")
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    until(lambda: gone(pid), "the graph's end")


def gone(pid: int) -> bool:
    """A process whose parent died is reaped by init, which may take its time."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
