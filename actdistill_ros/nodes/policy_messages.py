"""What the policy's side reads from arm/state, and what it publishes beside its chunks."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Pose

from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.pose import from_quaternion_xyzw
from actdistill_ros.control.step_gate import ArmReport
from actdistill_ros.msg import ArmState, Routing
from actdistill_ros.nodes.stamps import to_seconds, to_stamp


def pose_of(message: Pose) -> ArmPose:
    """Raises ValueError if the orientation is no rotation."""
    p, q = message.position, message.orientation
    return ArmPose(np.array([p.x, p.y, p.z]), from_quaternion_xyzw(np.array([q.x, q.y, q.z, q.w])))


def report_of(message: ArmState) -> ArmReport:
    """What the policy's side needs of arm/state. Raises ValueError if the commanded pose is no pose."""
    return ArmReport(
        mode=Mode(message.mode).name,
        follows_policy=message.source == "policy",
        reason=message.reason,
        faults=tuple(message.faults),
        tcp_commanded=pose_of(message.tcp_commanded),
        gripper_measured=message.gripper_measured,
        chunk_stamp_s=to_seconds(message.chunk_stamp),
        actions_done=message.actions_done,
        actions_left=message.actions_left,
        stamp_s=to_seconds(message.header.stamp),
    )


def routing_message(
    stamp_s: float, gates: np.ndarray, executed: np.ndarray, budget: float, latency_ms: dict[str, float]
) -> Routing:
    """gates, executed: (L,); every layer costs the same, so the share of layers is the share of compute."""
    message = Routing(
        gates=[float(g) for g in gates],
        executed=[bool(e) for e in executed],
        budget=float(budget),
        compute_share=float(np.mean(executed)),
        stages=list(latency_ms),
        latency_ms=[float(t) for t in latency_ms.values()],
    )
    message.header.stamp = to_stamp(stamp_s)
    return message
