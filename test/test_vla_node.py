"""inference_node runs a published VLA's folder as it runs this package's own policies."""

from __future__ import annotations

import json

import pytest
from policy_parts import FRAME
from rclpy.parameter import Parameter
from ros_rig import ros  # noqa: F401
from test_inference_node import Graph
from vla_parts import deployed, edit_json, hf_folder, linked_copy, listening_router  # noqa: F401

from actdistill_ros.nodes.inference_node import InferenceNode
from actdistill_ros.nodes.lifecycle import autostart
from actdistill_ros.policy.vla import checkpoint, student_folder


@pytest.fixture
def folder(hf_folder, tmp_path):  # noqa: F811
    copy = linked_copy(hf_folder, tmp_path / "openvla-7b")
    told = {"camera": "front", "frame": [FRAME, FRAME], "period_s": 0.1, "dtype": "float32", "layers": [0, 1, 3]}
    (copy / "deployment.json").write_text(json.dumps(told))
    return copy


def test_an_openvla_folder_steers_the_arm_one_action_at_a_time(ros, folder):  # noqa: F811
    graph = Graph(ros, str(folder))
    assert autostart(graph.node)
    goal = graph.send("Lift the red block")
    graph.until_steps(2)
    chunk = graph.arm.chunks[0]
    assert chunk.checkpoint_id.startswith("openvla-7b@") and (len(chunk.actions), chunk.execute) == (1, 1)
    routing = graph.ros.until(lambda: graph.routing, "routing")[0]
    assert list(routing.executed) == [True, True, False, True] and routing.budget == pytest.approx(0.75)
    goal.cancel_goal_async()


def test_a_damaged_vla_is_refused_at_configure(ros, folder):  # noqa: F811
    edit_json(folder / "config.json", lambda c: c["text_config"].update(num_hidden_layers=5))
    assert not autostart(ros.make(InferenceNode, checkpoint=str(folder)))


@pytest.fixture
def student(hf_folder, tmp_path):  # noqa: F811
    teacher = deployed(hf_folder, tmp_path / "teacher", frame=[FRAME, FRAME], period_s=0.1)
    router = listening_router(checkpoint.load(teacher, dtype="float32"))
    student_folder.save(tmp_path / "student", teacher, {}, router, 0.5)
    return tmp_path / "student"


def test_a_students_budget_can_change_while_a_task_runs_and_its_layers_follow(ros, student):  # noqa: F811
    graph = Graph(ros, str(student), instruction="Lift the red block", budget=0.75)
    assert autostart(graph.node)
    first = graph.ros.until(lambda: graph.routing, "routing")[0]
    assert first.budget == pytest.approx(0.75) and first.executed[0] and first.executed[3]
    assert 0 < min(first.gates) < max(first.gates) < 1 and first.latency_ms[list(first.stages).index("router")] > 0
    for asked, budget, share in ((1.0, 1.0, 1.0), (0.0, 0.5, 0.5)):  # 0: what it was made for
        assert graph.node.set_parameters([Parameter("budget", value=asked)])[0].successful
        last = graph.ros.until(lambda: graph.routing[-1].budget == budget and graph.routing[-1], "the new budget")  # noqa: B023
        assert last.compute_share == share == sum(last.executed) / 4
    refused = graph.node.set_parameters([Parameter("budget", value=0.1)])[0]
    assert not refused.successful and "0.1 is not in 0.25 … 1" in refused.reason


def test_a_student_with_anothers_router_is_refused_at_configure(ros, student):  # noqa: F811
    edit_json(student / "router.json", lambda body: body | {"layers": 32})
    assert not autostart(ros.make(InferenceNode, checkpoint=str(student)))
