"""Parameters of inference_node."""

from __future__ import annotations

from actdistill_ros.nodes.parameters import Setting
from actdistill_ros.policy.device import FORMS

SETTINGS = (
    Setting("checkpoint", "", "folder of the policy"),
    Setting("instruction", "", "what to do, without timeout, once active; empty: wait for a task", changeable=True),
    Setting("cameras", ["front", "wrist"], "cameras that the graph has"),
    Setting("device", "cpu", f"where the policy computes: {FORMS}"),
    Setting("threads", 0, "threads that the policy computes with; 0: all cores but one, which the arm needs", 0, 1024),
    Setting("nice", 5, "how far the policy steps back for others on the processor, 0 … 19", 0, 19),
    Setting("budget", 0.0, "share of decoder compute; 0: what the policy was made for", 0.0, 1.0, changeable=True),
    Setting("timeout_s", 60.0, "timeout of a task that names none [s]; 0: none", 0.0, 86400.0, changeable=True),
    Setting("max_frame_age_s", 1.0, "a camera whose newest frame is older is silent [s]", 0.05, 60.0),
)
