"""inference_node runs a published VLA's folder as it runs this package's own policies."""

from __future__ import annotations

import json

import pytest
from policy_parts import FRAME
from ros_rig import ros  # noqa: F401
from test_inference_node import Graph
from vla_parts import edit_json, hf_folder, linked_copy  # noqa: F401

from actdistill_ros.nodes.inference_node import InferenceNode
from actdistill_ros.nodes.lifecycle import autostart


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
