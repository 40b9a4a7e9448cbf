"""What the tests of a whole graph share: a simulated world and an emulated bus as hardware that outlives the graph, the
graph's own processes over them, an operator, and what the motors were told after a moment."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from actdistill_ros.msg import ArmState
from actdistill_ros.srv import SetMode, StartTask, TaskStatus
from arm_parts import settings_file
from ros_rig import Ros
from sdk_parts import Bus, until
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from actdistill_ros import bringup
from actdistill_ros.arm.frames import Command, decode_command
from actdistill_ros.bringup import DRIVER, NodeSpec
from actdistill_ros.contract import contract
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN, JOINT_VELOCITY_MAX
from actdistill_ros.nodes import qos
from actdistill_ros.run_folder import RunFolder
from actdistill_ros.sim.layout import FRAME_PIXELS
from actdistill_ros.supervisor import locate
from actdistill_ros.trials.judges import World
from actdistill_ros.trials.protocol import Trial
from actdistill_ros.up import bring_up

WIRE_RAD, WIRE_RAD_S = 0.0004, 0.022
"""Steps of position and velocity on the wire."""
WAYS_M = 0.01
"""A TCP that was commanded this far under the policy is in motion."""
POLICY_HOLD_S, TELEOP_HOLD_S = 2.5, 0.8
"""How long the driver of these graphs holds before it damps; the package's own times are a minute and half of one."""
SLACK_S = 1.0
"""For a machine that is busy: what takes a few milliseconds more when it is idle."""
TASK_S, START_S = 60.0, 300.0
TRIES, STOP_S = 3, 30.0
CHECKPOINT = "models/tabletop-student"
_ACTION = contract.load(bringup.share() / CHECKPOINT).action
CHUNK_S = _ACTION.chunk * _ACTION.period_s
"""What the arm may still do of what it was told before the policy died."""


def driver_settings(folder: Path) -> Path:
    """How long a hold without anybody lasts is another than in the package."""
    return settings_file(folder, policy_hold_to_damping_s=POLICY_HOLD_S, teleop_hold_to_damping_s=TELEOP_HOLD_S)


class Hardware:
    """What a graph commands and looks through, alive whatever happens to the graph."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, driver_settings(folder)
        words = ["--endpoint", str(folder), "--task", "lift", "--pixels", str(FRAME_PIXELS)]
        self._world = subprocess.Popen(
            [sys.executable, "-m", "actdistill_ros.sim.server", *words], stdout=subprocess.PIPE, text=True
        )
        assert self._world.stdout.readline().strip() == "ready"
        self.bus = Bus(folder, world=folder)

    def close(self) -> None:
        self.bus.close()
        self._world.send_signal(signal.SIGTERM)
        self._world.wait(STOP_S)
        self._world.stdout.close()


@pytest.fixture(scope="module")
def hardware(tmp_path_factory):
    with closing(Hardware(tmp_path_factory.mktemp("g"))) as hardware:
        yield hardware


def graph(folder: Path, config: Path) -> bringup.Graph:
    """The nodes of `hardware:=sdk_sim` with the bundled student; world and bus are there already, in `folder`."""
    planned = bringup.plan({"hardware": "sdk_sim", "checkpoint": CHECKPOINT, "teleop": "joy"})
    return replace(planned, nodes=tuple(over(node, folder, config) for node in planned.nodes if node.ros))


def over(node: NodeSpec, folder: Path, config: Path) -> NodeSpec:
    more = {"sim_endpoint": str(folder)} if "sim_endpoint" in node.parameters else {}
    return replace(
        node, parameters={**node.parameters, **more, **({"config": str(config)} if node.name == DRIVER else {})}
    )


def environment(folder: Path, domain: int) -> dict[str, str]:
    """Of a graph in a ROS domain of its own."""
    own = {"ROS_DOMAIN_ID": str(domain), "XDG_RUNTIME_DIR": str(folder), "ROS_LOG_DIR": str(folder / "ros")}
    return {**os.environ, **own}


class Nodes:
    """The graph's nodes, each started by itself as `ros2 run` does: nobody takes the others down when one dies."""

    def __init__(self, hardware: Hardware, domain: int) -> None:
        self._folder, self._environment = hardware.folder, environment(hardware.folder, domain)
        self._graph = graph(hardware.folder, hardware.config)
        self.names = tuple(node.name for node in self._graph.nodes)
        self._environment |= self._graph.environment
        self._commands = {node.name: self._command(node) for node in self._graph.nodes}
        self.processes: dict[str, subprocess.Popen] = {}

    def _command(self, node: NodeSpec) -> list[str]:
        parameters = RunFolder(self._folder).write_parameters(node.name, node.parameters)
        return [str(locate(node)), *self._graph.ros_arguments(node, parameters)]

    def start(self) -> None:
        """Those that do not run."""
        for name in self.names:
            if name not in self.processes or self.processes[name].poll() is not None:
                with open(self._folder / f"{name}.log", "ab") as log:
                    self.processes[name] = subprocess.Popen(
                        self._commands[name], env=self._environment, stdout=log, stderr=log, start_new_session=True
                    )

    def alive(self) -> None:
        """Whether none of them ended by itself."""
        for name, process in self.processes.items():
            assert process.poll() in (None, -signal.SIGKILL), (self._folder / f"{name}.log").read_text()

    def kill(self, *names: str) -> float:
        """SIGKILL to exactly these processes; the moment before it."""
        moment = time.monotonic()
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait()
        return moment

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes.values()]

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(STOP_S)


def heard(words: Sequence[str], env: dict[str, str]) -> tuple[subprocess.Popen, list[str], threading.Thread]:
    """A child in a session of its own, the lines that it and its children say, and who reads them until all ended."""
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process, lines = subprocess.Popen(words, env=env, start_new_session=True, **out), []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    return process, lines, reader


class Supervised:
    """The same nodes under the supervisor of `actdistill up`, which takes all of them down when one dies."""

    def __init__(self, hardware: Hardware, domain: int) -> None:
        words = [sys.executable, __file__, str(hardware.folder), str(hardware.config)]
        self.process, self.lines, self._reader = heard(words, environment(hardware.folder, domain))

    def alive(self) -> None:
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return "".join(self.lines)

    def nodes(self) -> list[int]:
        """Process ids of the supervisor's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def gone(self) -> bool:
        """Whether no process holds its output any more, and the supervisor is over."""
        self._reader.join(0.01)
        return not self._reader.is_alive() and self.process.poll() is not None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        self.process.stdout.close()


class Operator:
    """Whoever gives tasks to a graph and watches the arm, in a ROS context of the test's own."""

    def __init__(self, hardware: Hardware, domain: int) -> None:
        self.bus, self.ros = hardware.bus, Ros(domain)
        self.peer = self.ros.peer("operator")
        self.states = self.ros.hear(self.peer, ArmState, "arm/state", qos.STATE)
        self._pad = self.peer.create_publisher(Joy, "joy", qos.STATE)
        kinds = {"arm/set_mode": SetMode, "start_task": StartTask, "task_status": TaskStatus, "cancel_task": Trigger}
        self._clients = {name: self.peer.create_client(kind, name) for name, kind in kinds.items()}
        self._world = World(hardware.folder, "tabletop", self.let_go)
        self._seed = 95_000

    def call(self, name: str, alive: Callable[[], None] = lambda: None, **request):
        """The answer of a service. Asked again: a node that is only just there may not know yet whom to answer."""
        client, kind = self._clients[name], self._clients[name].srv_type
        for _ in range(round(START_S)):
            alive()
            answered = threading.Event()
            future = client.call_async(kind.Request(**request))
            future.add_done_callback(lambda _, answered=answered: answered.set())
            if answered.wait(1.0):
                return future.result()
        pytest.fail(f"{name} did not answer within {START_S:g} s")

    def ask(self, mode: int, reset: bool = False) -> None:
        """For a mode, again while it is refused: the motors' answers may be too old for a start on a busy machine."""
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            answer = self.call("arm/set_mode", mode=mode, reset=reset)
            if answer.success:
                return
            time.sleep(0.1)
        pytest.fail(f"the driver did not change to mode {mode}: {answer.message}")

    def let_go(self) -> None:
        """The arm goes limp, and a driver that lost it looks for it again."""
        self.ask(ArmState.IDLE, reset=True)

    def begin(self, alive: Callable[[], None]) -> None:
        """A task of the policy's, from a scene set anew; returns when it moves the arm under full power. Tried
        again: on a machine that is short of time a start may be refused."""
        for _ in range(TRIES):
            self.call("cancel_task", alive)
            self._seed += 1
            instruction, first = self._world.stage(Trial("", "lift", self._seed)), len(self.states)
            self.call("start_task", instruction=instruction, timeout_s=TASK_S)
            until(lambda first=first: self._moves(first) or not self.call("task_status").running, "motion or the end")
            if self._moves(first):
                until(self.bus.stiff, "all of the power, which comes on over a while")
                return
        pytest.fail(f"no task of {TRIES} moved the arm; the last one: {self.ending()}")

    def steps(self) -> int:
        return self.call("task_status").steps

    def ending(self) -> str:
        """Why the task ended."""
        return until(
            lambda: None if (status := self.call("task_status")).running else status.reason, "the end of the task"
        )

    def _moves(self, first: int, mode: int = ArmState.POLICY) -> bool:
        way = [point(s.tcp_commanded.position) for s in self.states[first:] if s.mode == mode]
        return len(way) > 1 and bool(np.linalg.norm(way[-1] - way[0]) > WAYS_M)

    def jog(self) -> None:
        """Hold the gamepad's dead-man and push the stick; returns when that moves the arm. Until the arm is taken the
        dead-man is pressed anew now and then, as an operator does whose gamepad was lost for a moment."""
        inwards = -1.0 if self.states[-1].tcp_commanded.position.y > 0.0 else 1.0
        sent, first = itertools.count(), len(self.states)

        def push() -> None:
            held = next(sent) % 20 > 4 or self.states[-1].mode == ArmState.TELEOP
            self._pad.publish(Joy(axes=[inwards, *[0.0] * 7], buttons=[0] * 4 + [int(held)] + [0] * 6))

        self._pressed = self.peer.create_timer(0.03, push)
        self.ros.until(lambda: self._moves(first, ArmState.TELEOP), "the dead-man to move the arm")

    def release(self) -> None:
        self.peer.destroy_timer(self._pressed)

    def state(self, mode: int, words: str = "") -> ArmState:
        """The arm's state, once it is in that mode because of these words."""
        return self.ros.until(
            lambda: (s := self.states[-1]).mode == mode and words in s.reason and s or None,
            lambda: f"mode {mode} because of {words!r}; last mode {self.states[-1].mode}, {self.states[-1].reason!r}",
        )

    def close(self) -> None:
        self._world.close()
        self.ros.close()


def point(at) -> np.ndarray:
    return np.array([at.x, at.y, at.z])


class Aftermath:
    """What the joints were told since a moment: of each its times, and under power its positions and velocities."""

    def __init__(self, bus: Bus, since_s: float) -> None:
        self._since_s = since_s
        self._told = told(bus, since_s)

    def inside_limits(self) -> bool:
        """Whether no command asked for a position or a speed that the arm must not have."""
        return all(
            JOINT_MIN[joint] - WIRE_RAD <= command.position_rad <= JOINT_MAX[joint] + WIRE_RAD
            and abs(command.velocity_rad_s) <= JOINT_VELOCITY_MAX[joint] + WIRE_RAD_S
            for joint, commands in enumerate(self._told)
            for _, command in commands
            if command.kp
        )

    def rested_s(self) -> float:
        """When the last joint was told where it stayed as long as it had power, after that moment."""
        return max(self._rested(commands) for commands in self._told)

    def _rested(self, commands: list[tuple[float, Command]]) -> float:
        under = [(at, command.position_rad) for at, command in commands if command.kp]
        moving = [at for at, position in under if abs(position - under[-1][1]) > WIRE_RAD]
        return moving[-1] - self._since_s if moving else 0.0

    def powered_s(self) -> float:
        """When a joint was last told a position, after that moment."""
        return (
            max((at for commands in self._told for at, command in commands if command.kp), default=0.0) - self._since_s
        )

    def last_s(self) -> float:
        """When the last frame of all came, after that moment."""
        return max((at for commands in self._told for at, _ in commands), default=self._since_s) - self._since_s


def told(bus: Bus, since_s: float) -> list[list[tuple[float, Command]]]:
    """Of each of the six joints every command since then, with its time."""
    joints = list(bus.motors)[:6]
    found: list[list[tuple[float, Command]]] = [[] for _ in joints]
    for frame in bus.frames(since_s):
        if frame.pid and frame.id in joints and (command := decode_command(bus.motors[frame.id], frame.data)):
            found[joints.index(frame.id)].append((frame.time_s, command))
    return found


if __name__ == "__main__":
    # The whole graph under its real supervisor, over hardware in the folder that is named.
    sys.exit(bring_up(graph(Path(sys.argv[1]), Path(sys.argv[2]))))
