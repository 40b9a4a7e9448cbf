"""An operator at a real terminal or serial line, the teleop node, the driver node, motors on a real socket."""

from __future__ import annotations

import itertools
import os
import pty
import threading
import time

import numpy as np
import pytest
from actdistill_ros.msg import ArmState
from arm_parts import HOME_Q, action
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from motor_parts import Motors
from rclpy.duration import Duration
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Float32
from test_arm_driver_node import PATIENT, Robot
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_NAMES
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.lifecycle import autostart
from actdistill_ros.nodes.stamps import to_stamp
from actdistill_ros.nodes.teleop_node import TeleopNode
from actdistill_ros.teleop import gamepad, serial_switch, session
from actdistill_ros.teleop.serial_switch import frame

forward = X5.chain.forward


@pytest.fixture
def motors(tmp_path):
    motors = Motors(tmp_path)
    yield motors
    motors.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A machine that stops for a moment lets go of no switch."""
    for module, name in ((serial_switch, "SILENT_S"), (gamepad, "SILENT_S"), (session, "FRESH_S")):
        monkeypatch.setattr(module, name, 5.0)


@pytest.fixture
def changes():
    return PATIENT


@pytest.fixture
def robot(ros, tmp_path, motors, changes):  # noqa: F811
    robot = Robot(ros, tmp_path, changes)
    robot.give_to_the_policy()
    return robot


class Line:
    """A pseudo-terminal whose other end repeats what it was told to, as a held key or a switch does."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.path, self.says = os.ttyname(self.slave), b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def _repeat(self) -> None:
        while not self._ended.wait(0.03):
            os.write(self.master, self.says)

    def unplug(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            os.close(self.master)


@pytest.fixture
def line():
    line = Line()
    yield line
    line.unplug()
    os.close(line.slave)


def teleop(robot: Robot, **parameters) -> TeleopNode:
    node = robot.ros.make(TeleopNode, **parameters)
    assert autostart(node)
    robot.ros.spin(node)
    heard = robot.ros.hear(robot.peer, Bool, "teleop/deadman", qos.STATE)
    robot.ros.until(lambda: heard or parameters["source"] == "joy", "the teleop node")
    return node


def in_teleop(state: ArmState) -> bool:
    return state.mode == ArmState.TELEOP and state.source == "teleop"


def moved(state: ArmState) -> float:
    at = state.tcp_commanded.position
    return float(np.linalg.norm(np.array([at.x, at.y, at.z]) - forward(HOME_Q).position_m))


def test_a_held_key_takes_the_arm_from_the_policy_and_letting_go_stops_it(robot, line):
    teleop(robot, source="keyboard", terminal=line.path, scale=1.0)
    robot.send(*[action(x=0.001)] * 5)
    line.says = b"a"
    robot.until(in_teleop, "teleop")
    robot.until(lambda s: in_teleop(s) and moved(s) > 0.01, "the arm to move")
    assert any("teleop took over from policy" in event for s in robot.states for event in s.events)
    line.says = b""
    robot.until(lambda s: "stands still" in s.reason, "the arm to be released")
    assert robot.stands_still() and robot.states[-1].mode == ArmState.TELEOP
    robot.give_to_the_policy()


def test_the_space_bar_is_a_latched_emergency_stop(robot, line, motors):
    teleop(robot, source="keyboard", terminal=line.path)
    line.says = b" "
    robot.until(lambda s: s.mode == ArmState.ESTOP, "the emergency stop")
    robot.ros.until(lambda: motors.enabled == 0, "motors without torque")
    assert "latched" in robot.set_mode(ArmState.TELEOP).message


@pytest.mark.parametrize("changes", [{}], ids=["the package's own timeouts"])
def test_a_teleop_node_that_is_killed_leaves_the_arm_in_hold(robot, line):
    node = teleop(robot, source="keyboard", terminal=line.path)
    line.says = b"a"
    robot.until(in_teleop, "teleop")
    robot.ros.run(robot.ros.executor.remove_node, node)  # it does nothing any more, as if it had been killed
    robot.until_held("teleop silent for")
    robot.ros.until(robot.stands_still, "rest, once what was on its way has come")


def test_a_serial_dead_man_lets_a_twist_of_others_through_and_unplugging_it_is_an_emergency_stop(robot, line, motors):
    line.says = frame("S,0,0")
    teleop(robot, source="serial", serial_port=line.path)
    mouse = robot.peer.create_publisher(TwistStamped, "teleop/twist", qos.STATE)
    message = TwistStamped()
    message.header.frame_id, message.twist.linear.y = "eef_link", 0.1

    def send() -> None:
        message.header.stamp = to_stamp(time.time())
        mouse.publish(message)

    robot.peer.create_timer(0.02, send)
    first = len(robot.states)
    robot.ros.until(lambda: len(robot.states) > first + 10, "ten states without the dead-man")
    assert not any(in_teleop(state) for state in robot.states)
    line.says = frame("S,1,0")
    robot.until(lambda s: in_teleop(s) and moved(s) > 0.01, "the arm to move")
    line.unplug()
    robot.until(lambda s: s.mode == ArmState.ESTOP, "the emergency stop")
    robot.ros.until(lambda: motors.enabled == 0, "motors without torque")


def test_a_leader_arm_is_followed_from_where_both_are_when_the_dead_man_is_pressed(robot, line):
    line.says = frame("L,0,0,0.4,1.0,1.0,-0.5,0,0,1")
    teleop(robot, source="serial", serial_port=line.path)
    line.says = frame("L,1,0,0.4,1.0,1.0,-0.5,0,0,1")
    robot.until(lambda s: in_teleop(s) and moved(s) < 0.005, "the arm to be taken")
    leader = [forward(np.array([q, 1.0, 1.0, -0.5, 0.0, 0.0])).position_m for q in (0.4, 0.45)]
    line.says = frame("L,1,0,0.45,1.0,1.0,-0.5,0,0,0.5")
    way = float(np.linalg.norm(leader[1] - leader[0]))
    robot.until(lambda s: in_teleop(s) and moved(s) == pytest.approx(way, abs=0.004), "the arm to follow")
    robot.until(lambda s: s.gripper_commanded == 0.5, "the gripper to follow")


def test_a_gamepad_moves_arm_and_gripper_under_its_dead_man(robot, motors):
    teleop(robot, source="joy", scale=1.0)
    pad = robot.peer.create_publisher(Joy, "joy", qos.STATE)
    message = Joy(axes=[0.0] * 8, buttons=[0] * 11)
    message.axes[4], message.buttons[0] = 1.0, 1
    sent = itertools.count()

    def send() -> None:
        message.buttons[4] = int(next(sent) % 30 > 2)  # held, and now and then pressed anew
        pad.publish(message)

    robot.peer.create_timer(0.03, send)
    robot.until(lambda s: in_teleop(s) and s.tcp_commanded.position.z > forward(HOME_Q).position_m[2] + 0.01, "up")
    robot.until(lambda s: s.gripper_commanded == 0.0, "the gripper to close")


def test_two_dead_men_for_one_arm_stop_it(robot, line):
    teleop(robot, source="keyboard", terminal=line.path)
    line.says = b"a"
    robot.until(in_teleop, "teleop")
    robot.peer.create_publisher(Bool, "teleop/deadman", qos.STATE)
    robot.until_held("teleop refused: 2 nodes publish teleop/deadman, expected one: stop the others")


def test_a_twist_in_another_frame_stops_the_arm_and_says_why(robot, line):
    teleop(robot, source="keyboard", terminal=line.path)
    line.says = b"a"
    robot.until(in_teleop, "teleop")
    stranger = robot.peer.create_publisher(TwistStamped, "teleop/twist", qos.STATE)
    message = TwistStamped()
    message.header.frame_id = "camera"
    robot.ros.connect(stranger, robot.node)
    stranger.publish(message)
    robot.until_held("teleop refused: frame_id is 'camera', expected 'base_link' or 'eef_link'")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"source": "mind"}, "parameter source is 'mind', expected one of keyboard, joy, spacemouse, serial"),
        ({"frame": "world"}, "parameter frame is 'world', expected one of base, tool"),
        ({"source": "serial"}, "no serial port is named"),
        ({"source": "serial", "serial_port": "/dev/nowhere"}, "cannot be opened"),
        ({"source": "keyboard", "terminal": "/dev/null"}, "is no terminal"),
        ({"source": "joy", "joy_stop": 4}, "expected five different numbers"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused_with_a_remedy(ros, capfd, parameters, words):  # noqa: F811
    assert not autostart(ros.make(TeleopNode, **parameters))
    assert words in capfd.readouterr().err


def trajectory(robot: Robot, *points, names=JOINT_NAMES, point_s: float = 0.3) -> None:
    publisher = robot.peer.create_publisher(JointTrajectory, "arm/joint_trajectory", qos.STATE)
    robot.ros.connect(publisher, robot.node)
    message = JointTrajectory(joint_names=list(names))
    for number, positions in enumerate(points, 1):
        point = JointTrajectoryPoint(positions=[float(q) for q in positions])
        point.time_from_start = Duration(seconds=number * point_s).to_msg()
        message.points.append(point)
    publisher.publish(message)


def followed(robot: Robot) -> None:
    """Looked for in all states: a short way may be over before anybody looks."""
    robot.ros.until(lambda: any(s.source == "trajectory" for s in list(robot.states)), "the trajectory to start")


def test_a_joint_trajectory_is_followed_whatever_the_order_of_its_names(robot):
    assert robot.set_mode(ArmState.HOLD).success
    goal = HOME_Q + [0.1, 0, 0, 0, 0, 0.1]
    trajectory(robot, goal[::-1], names=JOINT_NAMES[::-1])
    followed(robot)
    robot.until_held("the trajectory is done")
    x = forward(goal).position_m[0]
    robot.until(lambda s: s.tcp_measured.position.x == pytest.approx(x, abs=1e-3), "the arm to arrive")


def test_an_empty_trajectory_stops_one(robot):
    assert robot.set_mode(ArmState.HOLD).success
    trajectory(robot, HOME_Q + [0.1, 0, 0, 0, 0, 0], HOME_Q + [-0.3, 0, 0, 0, 0, 0], point_s=2.0)
    followed(robot)
    trajectory(robot)
    robot.until_held("asked to hold")
    assert robot.stands_still()


def test_an_empty_trajectory_leaves_a_limp_arm_limp(robot):
    assert robot.set_mode(ArmState.IDLE).success
    trajectory(robot)
    first = len(robot.states)
    robot.ros.until(lambda: len(robot.states) > first + 25, "half a second of states")
    assert {state.mode for state in robot.states[first:]} == {ArmState.IDLE}


def test_a_trajectory_that_lacks_a_joint_moves_nothing(robot):
    assert robot.set_mode(ArmState.HOLD).success
    told = robot.ros.hear_log(robot.peer, robot.node)
    trajectory(robot, HOME_Q[:5], names=JOINT_NAMES[:5])
    robot.ros.until(lambda: any("joint_names lack joint6" in line.msg for line in told), lambda: f"the refusal: {told}")
    assert robot.stands_still() and robot.states[-1].mode == ArmState.HOLD


@pytest.mark.parametrize("changes", [PATIENT | {"chunk_timeout_s": 60.0}], ids=["a policy that may be silent"])
def test_a_trajectory_while_the_policy_has_the_arm_moves_nothing(robot):
    told = robot.ros.hear_log(robot.peer, robot.node)
    trajectory(robot, HOME_Q + 0.05)
    robot.ros.until(lambda: any("trajectory ignored" in line.msg for line in told), lambda: f"the refusal: {told}")
    assert robot.stands_still() and robot.states[-1].mode == ArmState.POLICY


def test_a_tool_moves_the_gripper_while_the_arm_holds(robot, motors):
    assert robot.set_mode(ArmState.HOLD).success
    publisher = robot.peer.create_publisher(Float32, "arm/gripper", qos.STATE)
    robot.ros.connect(publisher, robot.node)
    robot.peer.create_timer(0.03, lambda: publisher.publish(Float32(data=0.25)))
    robot.until(lambda s: s.gripper_commanded == 0.25, "the gripper's command")
    robot.ros.until(lambda: motors.gripper == 0.25, "the gripper to arrive")


def test_every_motor_has_a_diagnostic_with_its_rate_and_the_age_of_its_answer(robot, motors):
    heard = robot.ros.hear(robot.peer, DiagnosticArray, "/diagnostics")
    motors.faults[6] = 13
    robot.until_held("gripper: ")

    def told():
        statuses = {status.name.rpartition(": ")[2]: status for status in heard[-1].status} if heard else {}
        wanted = {"gripper": DiagnosticStatus.ERROR, "joint3": DiagnosticStatus.OK}
        return statuses if statuses and all(statuses[name].level == level for name, level in wanted.items()) else None

    statuses = robot.ros.until(told, "the fault in the diagnostics")
    assert set(statuses) == {"arm", *JOINT_NAMES, "gripper"}
    values = {pair.key: pair.value for pair in statuses["joint3"].values}
    assert float(values["answers [Hz]"]) > 5.0 and float(values["age [s]"]) < 1.0
    assert values["position"] == f"{HOME_Q[2]:.4f} rad"
