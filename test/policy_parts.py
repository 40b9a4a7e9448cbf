"""A checkpoint with random weights, as small as the policy allows, and an arm that plays its part over ROS."""

from __future__ import annotations

from pathlib import Path

import torch
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract, Statistics
from actdistill_ros.msg import ActionChunk, ArmState
from actdistill_ros.nodes import qos
from actdistill_ros.nodes.stamps import to_stamp
from actdistill_ros.nodes.stopping import POLICY_STOP
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.config import PolicyConfig, RouterConfig
from actdistill_ros.policy.model import Policy
from actdistill_ros.srv import SetMode

INSTRUCTIONS = ("lift the red block", "push the blue block left")
FRAME = 48


def tiny_checkpoint(folder: Path, layers: int = 2, router: RouterConfig | None = None) -> Path:
    """Cameras front and wrist at 48 × 48, two layers; 8 actions of 0.1 s, 4 of them executed."""
    torch.manual_seed(0)
    vocabulary = tuple(sorted({word for text in INSTRUCTIONS for word in text.split()}))
    config = PolicyConfig(
        vocabulary,
        image_size=32,
        vision_tokens=(2, 2),
        vision_width=8,
        width=20,
        feed_forward=16,
        layers=layers,
        router=router,
    )
    statistics = Statistics((-0.01,) * 6 + (0.0,), (0.01,) * 6 + (1.0,), (True,) * 6 + (False,), 1)
    contract = Contract(
        robot="x5",
        cameras=tuple(CameraSpec(name, 32, FRAME, FRAME) for name in ("front", "wrist")),
        action=ActionSpace(0.1, 8, 4, 0.02, 0.1),
        statistics={"test": statistics},
        statistics_key="test",
        instructions=INSTRUCTIONS,
    )
    checkpoint.save(folder, Policy(config), contract)
    return folder


class PlayedArm:
    """arm/state at 100 Hz, arm/set_mode, and every chunk done after `reports` reports."""

    def __init__(self, node, clock, reports: int = 3, agrees: bool = True) -> None:
        self.clock, self.reports, self.agrees = clock, reports, agrees
        self.state = ArmState(mode=ArmState.IDLE, reason="nobody commands")
        self.state.tcp_commanded.position.x = 0.3
        self.asked: list[int] = []
        self.chunks: list[ActionChunk] = []
        self.speaks = self.takes = True
        self._left = 0
        self._topic = node.create_publisher(ArmState, "arm/state", qos.STATE)
        self.stops: Future | None = None  # what a stop waits for before it is done
        # Made first, as in the driver: of two requests it is served first. Its wait keeps nothing else from going on.
        node.create_service(Trigger, POLICY_STOP, self._on_stop, callback_group=ReentrantCallbackGroup())
        node.create_service(SetMode, "arm/set_mode", self._on_mode)
        node.create_subscription(ActionChunk, "policy/chunk", self._on_chunk, 10)
        node.create_timer(0.01, self._report)

    def _on_mode(self, request, response):
        self.asked.append(request.mode)
        response.success = self.agrees
        if self.agrees:
            self.become(request.mode, "asked for")
        else:
            response.message = "the arm has faults"
        return response

    async def _on_stop(self, request, response):
        if self.stops is not None:
            await self.stops
        response.success = self.state.source == "policy"
        if response.success:
            self.asked.append(ArmState.HOLD)
            self.become(ArmState.HOLD, "asked to hold")
        return response

    def become(self, mode: int, reason: str) -> None:
        self.state.mode, self.state.reason = mode, reason
        self.state.source = "policy" if mode == ArmState.POLICY else ""

    def _on_chunk(self, chunk: ActionChunk) -> None:
        self.chunks.append(chunk)
        if self.takes:
            self.state.chunk_stamp, self._left = chunk.header.stamp, self.reports

    def _report(self) -> None:
        self.state.actions_left = self._left = max(0, self._left - 1)
        self.state.actions_done = 0 if self._left else 1
        self.state.header = Header(stamp=to_stamp(self.clock()), frame_id="base_link")
        if self.speaks:
            self._topic.publish(self.state)
