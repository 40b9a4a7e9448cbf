"""The arm on ROS: real nodes, real topics, motors on a real socket."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from actdistill_ros.msg import ActionChunk, ArmState
from actdistill_ros.srv import SetMode
from arm_parts import HOME_Q, action, chunk, settings_file
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State
from motor_parts import Motors
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_rig import Ros, ros  # noqa: F401
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from actdistill_ros.control.arm_models import X5
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.arm_driver_node import ArmDriverNode
from actdistill_ros.nodes.arm_messages import chunk_from_message, chunk_message
from actdistill_ros.nodes.lifecycle import autostart

forward = X5.chain.forward

NAN = float("nan")


@pytest.fixture
def motors(tmp_path):
    motors = Motors(tmp_path)
    yield motors
    motors.close()


PATIENT = {"feedback_timeout_s": 5.0, "teleop_timeout_s": 5.0, "max_chunk_age_s": 5.0}
"""Ages that a machine which stops for a moment does not reach: what is tested is what the driver does otherwise."""


class Robot:
    """A driver node that is up, and a peer that hears its state and commands it. changes: to config/arm.yaml."""

    def __init__(self, ros: Ros, folder, changes=PATIENT, **parameters) -> None:  # noqa: F811
        self.ros = ros
        parameters["config"] = str(settings_file(folder, **changes))
        self.node = ros.make(ArmDriverNode, sim_endpoint=str(folder), **parameters)
        assert autostart(self.node)
        ros.spin(self.node)
        self.peer = ros.peer()
        self.states = ros.hear(self.peer, ArmState, "arm/state")
        self.chunks = self.peer.create_publisher(ActionChunk, "policy/chunk", qos.STATE)
        self.modes = self.peer.create_client(SetMode, "arm/set_mode")
        assert self.modes.wait_for_service(timeout_sec=20.0)
        ros.connect(self.chunks, self.node)
        ros.until(lambda: self.states, "the driver's state")

    def set_mode(self, mode: int, reset: bool = False) -> SetMode.Response:
        future = self.modes.call_async(SetMode.Request(mode=mode, reset=reset))
        self.ros.until(future.done, "an answer of arm/set_mode")
        return future.result()

    def give_to_the_policy(self) -> None:
        """Asked again while the driver refuses: on a machine that is short of time the arm's answers may be too old."""
        self.ros.until(lambda: self.set_mode(ArmState.POLICY).success, "mode POLICY")

    def send(self, *actions, frame: str = "base_link", **changes) -> None:
        message = chunk_message(replace(chunk(*actions, stamp_s=time.time()), **changes))
        message.header.frame_id = frame
        self.chunks.publish(message)

    def until(self, condition, what: str) -> ArmState:
        return self.ros.until(lambda: self.states[-1] if condition(self.states[-1]) else None, what)

    def until_held(self, words: str) -> ArmState:
        return self.until(lambda s: s.mode == ArmState.HOLD and words in s.reason, f"HOLD because of {words!r}")

    def stands_still(self) -> bool:
        """The commanded pose of twenty states is one and the same."""
        first = len(self.states)
        self.ros.until(lambda: len(self.states) >= first + 20, "twenty states")
        return len({(s.tcp_commanded.position.x, s.tcp_commanded.position.z) for s in self.states[first:]}) == 1


@pytest.fixture
def robot(ros, tmp_path, motors):  # noqa: F811
    robot = Robot(ros, tmp_path)
    robot.give_to_the_policy()
    return robot


def test_a_chunk_moves_the_arm_and_the_state_counts_its_actions(robot, motors):
    robot.send(action(x=0.02), action(x=0.02, gripper=0.0))
    state = robot.until(lambda s: s.actions_done == 2, "two actions done")
    x = forward(HOME_Q).position_m[0] + 0.04
    assert (state.mode, state.source, state.actions_left) == (ArmState.POLICY, "policy", 0)
    assert state.tcp_commanded.position.x == pytest.approx(x, abs=1e-6)
    assert state.gripper_commanded == 0.0 and state.header.frame_id == "base_link"
    robot.until(lambda s: s.tcp_measured.position.x == pytest.approx(x, abs=1e-3), "the arm to arrive")
    assert motors.gripper == 0.0


def test_a_policy_that_stops_ends_in_hold_and_the_state_says_so(robot):
    robot.send(action(x=0.02))
    state = robot.until_held("policy silent for 1.")
    assert any(event.startswith("HOLD: policy silent for") for s in robot.states for event in s.events)
    assert robot.stands_still() and state.source == "policy"


@pytest.mark.parametrize(
    ("actions", "changes", "words"),
    [
        ([action(x=0.01), action(z=NAN)], {}, "chunk refused: action 2 is not finite"),
        ([action(x=0.2)], {}, "chunk refused: far jump: translation of action 1 is 0.200 m"),
        ([action(x=0.01)], {"stamp_s": 5.0}, "chunk refused: stale chunk: its observation is"),
        ([action(x=0.01)], {"stamp_s": 0.0}, "chunk refused: stamp is 0"),
        ([action(x=0.01)], {"frame": "link6"}, "chunk refused: frame_id is 'link6', expected 'base_link'"),
    ],
)
def test_a_bad_chunk_makes_a_moving_arm_hold_and_the_state_names_why(robot, actions, changes, words):
    robot.send(*[action(x=0.01)] * 5)
    robot.until(lambda s: s.actions_done >= 1, "the arm to move")
    robot.send(*actions, **changes)
    assert robot.until_held(words).actions_left == 0
    assert robot.stands_still()


def test_an_emergency_stop_takes_the_torque_away_until_reset(robot, motors):
    robot.send(*[action(x=0.01)] * 5)
    assert robot.set_mode(ArmState.ESTOP).success
    robot.ros.until(lambda: motors.enabled == 0, "motors without torque")
    answer = robot.set_mode(ArmState.POLICY)
    assert not answer.success and "latched" in answer.message
    assert robot.set_mode(ArmState.IDLE, reset=True).success


def test_an_unknown_mode_is_refused_with_the_known_ones(robot):
    answer = robot.set_mode(17)
    assert not answer.success and "known are 0 IDLE, 1 POLICY" in answer.message


def test_a_motor_fault_is_in_the_state_and_in_the_diagnostics(robot, motors):
    heard = robot.ros.hear(robot.peer, DiagnosticArray, "/diagnostics")
    motors.faults[2] = 12
    state = robot.until_held("joint3: coil too hot")
    assert state.faults[0] == "joint3: coil too hot; let the motor cool down"
    robot.ros.until(
        lambda: heard and heard[-1].status[0].level == DiagnosticStatus.ERROR, "an error in the diagnostics"
    )
    assert any(value.value == state.faults[0] for value in heard[-1].status[0].values)


def test_a_world_that_dies_is_a_named_error_of_a_living_node_until_a_reset(robot, motors, tmp_path):
    motors.close()
    state = robot.until(lambda s: s.mode == ArmState.DAMPING, "DAMPING")
    assert state.faults[0].startswith("ERROR: simulated motors at") and "is sim_world still running?" in state.faults[0]
    assert "start `sim_world" in robot.set_mode(ArmState.POLICY, reset=True).message
    again = Motors(tmp_path)
    assert robot.set_mode(ArmState.POLICY, reset=True).success
    robot.until(lambda s: s.mode == ArmState.POLICY and not s.faults, "the policy in command again")
    again.close()


def test_joints_fingers_and_the_model_are_published_under_the_same_names(robot, motors):
    joints = robot.ros.hear(robot.peer, JointState, "joint_states", qos.STATE)
    models = robot.ros.hear(robot.peer, String, "robot_description", qos.LATCHED)
    robot.ros.until(lambda: joints and models, "joints and model")
    assert all(f'<joint name="{name}"' in models[0].data for name in joints[0].name)
    np.testing.assert_allclose(joints[0].position, [*HOME_Q, 0.044, 0.044], atol=1e-9)


def test_the_speed_scale_changes_while_the_arm_moves(robot):
    assert robot.node.set_parameters([Parameter("speed_scale", value=0.1)])[0].successful
    robot.send(action(x=0.02))
    robot.until(lambda s: s.actions_left == 1, "the chunk to start")
    started = robot.states[-1].header.stamp
    ended = robot.until(lambda s: s.actions_done >= 1, "the action to end").header.stamp
    assert (ended.sec - started.sec) + (ended.nanosec - started.nanosec) * 1e-9 > 0.5
    assert not robot.node.set_parameters([Parameter("speed_scale", value=3.0)])[0].successful


def test_deactivating_holds_then_damps_and_nothing_moves_the_arm_after(robot, motors):
    robot.send(*[action(x=0.01)] * 8)
    robot.until(lambda s: s.actions_done >= 1, "the arm to move")
    robot.ros.run(robot.node.trigger_deactivate)
    robot.ros.until(lambda: motors.enabled == 0, "motors without torque")
    answer = robot.set_mode(ArmState.POLICY)
    assert not answer.success and "not active" in answer.message
    assert robot.ros.run(robot.node.trigger_activate) == TransitionCallbackReturn.SUCCESS
    robot.give_to_the_policy()


def test_shutting_down_leaves_the_arm_without_torque(robot, motors):
    robot.ros.run(robot.node.trigger_shutdown)
    robot.ros.until(lambda: motors.enabled == 0, "motors without torque")
    for timer in (robot.node._publish_state, robot.node._publish_diagnostics):  # due at the same moment
        robot.ros.run(timer)


def test_a_second_driver_in_the_namespace_is_refused_by_name(robot, tmp_path):
    second = robot.ros.make(ArmDriverNode, sim_endpoint=str(tmp_path))
    heard = robot.ros.hear_log(robot.peer, second)
    assert not autostart(second)
    told = "/arm_driver_node publishes /arm/state already: one driver per namespace"
    robot.ros.until(lambda: any(told in line.msg for line in heard), "the refusal")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"hardware": "real", "can_interface": "can77", "connect_timeout_s": 0.0},
            "no interface can77 here",
        ),
        (
            {"hardware": "sdk_sim", "sim_endpoint": "/nowhere", "connect_timeout_s": 0.0},
            "no emulated bus at /nowhere/can0.ctl",
        ),
        ({"hardware": "sdk_sim"}, "parameter sim_endpoint is empty"),
        ({"hardware": "ur5"}, "parameter hardware is 'ur5', expected one of sim, sdk_sim, real"),
        ({}, "parameter sim_endpoint is empty"),
        (
            {"sim_endpoint": "/nowhere", "connect_timeout_s": 0.0},
            "no simulated motors at /nowhere/motors.sock: start `sim_world",
        ),
    ],
)
def test_a_driver_that_cannot_reach_its_arm_says_why_and_does_not_come_up(ros, capfd, parameters, words):  # noqa: F811
    node = ros.make(ArmDriverNode, **parameters)
    assert not autostart(node)
    assert words in capfd.readouterr().err
    assert node._state_machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED


def test_a_driver_waits_for_an_arm_that_is_only_just_coming_up(ros, tmp_path, monkeypatch):  # noqa: F811
    made = []
    monkeypatch.setattr("actdistill_ros.nodes.arm_driver_node.RETRY_S", 0.01)
    connect = ArmDriverNode._start

    def late(self, loop):
        made.append(
            ros.peer("late").create_timer(0.1, lambda: made.append(Motors(tmp_path)) if len(made) == 1 else None)
        )
        connect(self, loop)

    monkeypatch.setattr(ArmDriverNode, "_start", late)
    assert autostart(ros.make(ArmDriverNode, sim_endpoint=str(tmp_path)))
    made[1].close()


def test_a_chunk_survives_the_way_through_its_message():
    sent = chunk(action(0.01, -0.02, 0.03, 0.1, -0.2, 0.3, 0.5), action(x=0.04), stamp_s=1_790_000_000.125)
    got = chunk_from_message(chunk_message(sent))
    np.testing.assert_allclose(got.actions, sent.actions, atol=1e-7)
    assert replace(got, actions=None) == replace(sent, actions=None)
