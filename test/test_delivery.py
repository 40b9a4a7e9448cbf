"""A message that the middleware refuses is lost with a warning, and its node lives on."""

# ruff: noqa: F811

from __future__ import annotations

from types import SimpleNamespace

import pytest
from actdistill_ros.msg import ArmState
from deaf_parts import KEEP_ALL, Deaf
from rclpy.lifecycle import TransitionCallbackReturn
from ros_rig import ros  # noqa: F401
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from test_arm_driver_node import Robot, motors  # noqa: F401
from test_camera_node import parameters, video  # noqa: F401
from test_inference_node import Graph, checkpoint  # noqa: F401
from test_teleop_node import line, teleop  # noqa: F401

from actdistill_ros.nodes import delivery, qos
from actdistill_ros.nodes.camera_node import CameraNode
from actdistill_ros.nodes.lifecycle import autostart

LOST = "a message is lost, the middleware refused it: Failed to publish"


@pytest.fixture(autouse=True)
def keep_all(monkeypatch):
    """With the package's own profiles a refusal is rare, and happens when nobody waits for it."""
    for name in ("STATE", "IMAGES"):
        monkeypatch.setattr(qos, name, KEEP_ALL)


def test_a_driver_that_cannot_tell_its_state_obeys_and_tells_what_happened_later(ros, tmp_path, motors):
    robot = Robot(ros, tmp_path)
    robot.give_to_the_policy()
    deaf = Deaf(ros, robot.node._state, robot.states[-1])
    ros.until(lambda: ros.refusals, "a state that is refused")
    assert robot.set_mode(ArmState.ESTOP).success
    ros.until(lambda: motors.enabled == 0, "motors without torque")
    assert robot.set_mode(ArmState.IDLE, reset=True).success
    assert not any(event.startswith("ESTOP") for state in robot.states for event in state.events)
    deaf.leave()
    robot.until(lambda s: s.mode == ArmState.IDLE, "the state")
    ros.until(lambda: any(e.startswith("ESTOP") for s in robot.states for e in s.events), "what happened meanwhile")


def test_a_driver_that_cannot_tell_its_last_state_lets_go_of_the_arm_all_the_same(ros, tmp_path, motors):
    robot = Robot(ros, tmp_path)
    robot.give_to_the_policy()
    Deaf(ros, robot.node._state, robot.states[-1])
    assert ros.run(robot.node.trigger_shutdown) == TransitionCallbackReturn.SUCCESS
    ros.until(lambda: motors.enabled == 0, "motors without torque")


def test_a_camera_whose_frame_is_lost_shows_the_next_ones(ros, video):
    node = ros.spin(ros.make(CameraNode, **parameters(video, front__fps=50.0)))
    assert autostart(node)
    peer = ros.peer()
    images = ros.hear(peer, Image, "camera/front/image_raw")
    ros.until(lambda: images, "an image")
    told = ros.hear_log(peer, node)
    deaf = Deaf(ros, node._topics[0], Image())
    ros.until(lambda: any(LOST in line.msg for line in told), "the warning")
    deaf.leave()
    images.clear()
    ros.until(lambda: any(image.width for image in images), "frames again")


def test_a_chunk_that_is_lost_is_made_anew_and_the_task_goes_on(ros, checkpoint):
    graph = Graph(ros, checkpoint)
    assert autostart(graph.node)
    goal = graph.send("lift the red block")
    graph.until_steps(1)
    deaf = Deaf(ros, graph.node._chunks, graph.arm.chunks[0])
    ros.until(lambda: ros.refusals, "a chunk that is refused")
    deaf.leave()
    graph.arm.chunks.clear()
    graph.until_steps(2)
    graph.wait(goal.cancel_goal_async(), "the cancellation")
    assert graph.result(goal)[1].reason == "cancelled"


def test_an_emergency_stop_is_asked_for_though_the_dead_man_cannot_be_told(ros, tmp_path, motors, line):
    robot = Robot(ros, tmp_path)
    robot.give_to_the_policy()
    node = teleop(robot, source="keyboard", terminal=line.path)
    Deaf(ros, node._deadman, Bool())
    ros.until(lambda: ros.refusals, "a dead-man that is refused")
    line.says = b" "
    robot.until(lambda s: s.mode == ArmState.ESTOP, "the emergency stop")


class Broken:
    """What rclpy does where the middleware lets nothing through any more."""

    def spin_once(self) -> None:
        raise delivery.Refused("Failed to wait on wait set")


def test_a_middleware_that_lets_nothing_through_ends_whoever_spins(monkeypatch):
    monkeypatch.setattr(delivery, "_PATIENCE_S", 0.05)
    told: list[str] = []
    log = SimpleNamespace(warning=lambda words, **_: told.append(words))
    with pytest.raises(delivery.Refused, match="wait set"):
        delivery.spin(Broken(), log, lambda: len(told) > 1000)
    assert len(told) > 1
