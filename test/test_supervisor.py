"""Real processes under the real supervisor: how a graph starts, ends, and takes everything with it."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

GRAPH = ("sim_world!", "arm_driver_node", "camera_node", "inference_node")
PATIENT = """
def stop(number, frame):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
note("started")
print("ready", flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
LEAVES_A_CHILD = (
    """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "1000"], pass_fds=[events.fileno()])
"""
    + PATIENT
)


class Scripts:
    """A folder of scripts, the graph made of them, and what they noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.mkfifo(folder / "events")
        self._events = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)
        self._process: subprocess.Popen | None = None

    def write(self, name: str, body: str) -> None:
        fifo = str(self.folder / "events")
        head = f"#!{sys.executable} -S\nimport os, signal, subprocess, sys, time\nevents = open({fifo!r}, 'w')\n"
        head += f"def note(text):\n    events.write(f'{name} {{text}}\\n')\n    events.flush()\n"
        (self.folder / name).write_text(head + body)
        (self.folder / name).chmod(0o755)

    def start(self, *names: str) -> subprocess.Popen:
        for name in names:
            if not (self.folder / name.rstrip("!?")).exists():
                self.write(name.rstrip("!?"), PATIENT)
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("graph_of_scripts.py"), self.folder, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._guard = threading.Timer(30, self._process.kill)
        self._guard.start()
        return self._process

    def until(self, *lines: str) -> None:
        """Read what the graph says until it has said all these lines."""
        left = set(lines)
        for line in self._process.stdout:
            left.discard(line.strip())
            if not left:
                return
        raise AssertionError(f"the graph ended without saying {left}")

    def events(self, timeout_s: float = 5.0) -> list[str]:
        """Everything the scripts noted, once none of them is left; fails if one stays."""
        text = b""
        while select.select([self._events], [], [], timeout_s)[0]:
            data = os.read(self._events, 4096)
            if not data:
                return text.decode().splitlines()
            text += data
        raise AssertionError(f"a process is left; so far they noted {text.decode().splitlines()}")

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._guard.cancel()
        os.close(self._events)


@pytest.fixture
def scripts(tmp_path):
    scripts = Scripts(tmp_path)
    yield scripts
    scripts.close()


def said_ready(names=GRAPH):
    return [f"[{name.rstrip('!?')}] ready" for name in names]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_makes_the_arm_hold_then_ends_its_masters_then_the_driver_then_the_world(scripts, number):
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.send_signal(number)
    output, _ = graph.communicate()
    assert graph.returncode == 0, output
    assert "Traceback" not in output
    events = [event for event in scripts.events() if not event.endswith("started")]
    assert events[0] == "hold"
    assert set(events[1:3]) == {"camera_node stopped", "inference_node stopped"}
    assert events[3:] == ["arm_driver_node stopped", "sim_world stopped"]


def test_a_node_that_dies_takes_the_graph_down_with_its_name_and_reason_after_the_arm_holds(scripts):
    scripts.write("camera_node", 'print("lens cap is on", flush=True)\nsys.exit(3)\n')
    graph = scripts.start(*GRAPH[:3])
    output, _ = graph.communicate()
    assert graph.returncode == 1
    assert "camera_node ended with exit code 3: lens cap is on" in output
    stopped = [event for event in scripts.events() if not event.endswith("started")]
    assert stopped[0] == "hold"
    assert stopped[-1] == "sim_world stopped"


def test_a_node_that_is_killed_is_named_with_the_signal(scripts):
    scripts.write("inference_node", "note('up')\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    output, _ = scripts.start("arm_driver_node!", "inference_node").communicate()
    assert "inference_node was killed by SIGSEGV" in output


def test_the_world_is_ready_before_its_driver_starts(scripts):
    scripts.write("sim_world", "time.sleep(0.3)\n" + PATIENT.replace('"ready", flush', '"loading\\nready", flush'))
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.send_signal(signal.SIGINT)
    graph.communicate()
    started = [event for event in scripts.events() if event.endswith("started")]
    assert started.index("sim_world started") == 0


def test_a_world_that_dies_before_it_is_ready_starts_nothing_else(scripts):
    scripts.write("sim_world", 'print("no EGL here", flush=True)\nsys.exit(1)\n')
    graph = scripts.start(*GRAPH)
    output, _ = graph.communicate()
    assert graph.returncode == 1
    assert "sim_world ended with exit code 1: no EGL here" in output
    assert scripts.events() == []


def test_a_stubborn_node_is_killed_and_named_and_all_is_over_within_five_seconds(scripts):
    scripts.write("inference_node", STUBBORN)
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.send_signal(signal.SIGTERM)
    output, _ = graph.communicate(timeout=5)
    assert graph.returncode == 0
    assert "inference_node did not end in time and was killed" in output
    assert "arm_driver_node stopped" in scripts.events()


def test_children_of_a_node_end_with_it(scripts):
    scripts.write("camera_node", LEAVES_A_CHILD)
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.send_signal(signal.SIGINT)
    graph.communicate()
    assert "camera_node stopped" in scripts.events()


def test_nodes_end_when_the_supervisor_is_killed(scripts):
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.kill()
    assert "arm_driver_node stopped" in scripts.events()


def test_a_window_that_is_closed_leaves_the_arm_running(scripts):
    scripts.write("rviz2", "note('closed')\n")
    scripts.write("camera_node", "time.sleep(0.5)\n" + PATIENT)
    graph = scripts.start("arm_driver_node!", "rviz2?", "camera_node")
    scripts.until("[camera_node] ready")
    graph.send_signal(signal.SIGINT)
    output, _ = graph.communicate()
    assert graph.returncode == 0, output


def test_a_reader_that_goes_away_stops_the_graph_in_order(scripts):
    scripts.write(
        "camera_node", "print('ready', flush=True)\nwhile True:\n    print('frame', flush=True)\n    time.sleep(0.05)\n"
    )
    graph = scripts.start(*GRAPH)
    scripts.until(*said_ready())
    graph.stdout.close()
    assert graph.wait(timeout=10) == 0
    events = scripts.events()
    assert "hold" in events
    assert events[-1] == "sim_world stopped"
