"""When the policy takes its next step, and from which frames: after the last action, never from an older picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actdistill_ros.camera.source import Frame
from actdistill_ros.contract.contract import CameraSpec
from actdistill_ros.contract.observation import ArmPose, Observation

FRAME_PERIOD_S = 1.0 / 30.0
"""A frame may be this much older than the end of the last action: it still shows the arm as good as arrived."""
SAME_STAMP_S = 1e-5
TAKE_UP_S = 0.5
"""A chunk that arm/state does not name this long after it was sent was refused or lost."""
REFUSALS = 5
"""That many chunks in a row that the arm did not take, or of which it did nothing, end the task."""
ARM_SILENT_S = 1.0
ENTER_POLICY_S = 2.0


@dataclass(frozen=True)
class ArmReport:
    """What the policy needs to know of the arm; see ArmState.

    mode: its name; follows_policy: whether a valid chunk would move the arm now (in mode POLICY, or in a hold that a
    chunk ends); chunk_stamp_s, actions_done, actions_left: of the chunk executed now or last; stamp_s: when the motors
    answered [s].
    """

    mode: str
    follows_policy: bool
    reason: str
    faults: tuple[str, ...]
    tcp_commanded: ArmPose
    gripper_measured: float
    chunk_stamp_s: float
    actions_done: int
    actions_left: int
    stamp_s: float


class StepGate:
    """Frames and arm reports go in, observations to act on come out, one at a time. Not thread-safe.

    Order of calls: `start`; then `see` and `hear` as they come, and `take` after each; an observation taken is
    answered by `sent` before the next; `stop`. `problem` says at any time why the policy cannot go on.
    """

    def __init__(self, cameras: Sequence[CameraSpec], max_frame_age_s: float, clock: Callable[[], float]) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._max_age_s, self._clock = max_frame_age_s, clock
        self._frames: dict[str, Frame] = {}
        self._misfit: dict[str, str] = {}
        self._report: ArmReport | None = None
        self._heard_s = 0.0
        self.stop()

    @property
    def report(self) -> ArmReport | None:
        """The newest arm report."""
        return self._report

    @property
    def refused(self) -> bool:
        """Whether the arm did nothing of the chunk that was sent last."""
        return self._refusals > 0

    def start(self) -> None:
        """Begin with frames captured from now on."""
        self.stop()
        self._running = True
        self._started_s = self._not_before_s = self._clock()

    def stop(self) -> None:
        """No observation comes out any more; frames and reports are still taken note of."""
        self._running = self._busy = self._followed = False
        self._sent_stamp_s: float | None = None
        self._sent_s = self._started_s = self._not_before_s = 0.0
        self._refusals = 0

    def see(self, name: str, frame: Frame) -> None:
        """A frame arrived; its size is checked against the contract."""
        height, width = frame.image.shape[:2]
        camera = self._cameras[name]
        if (height, width) == (camera.source_height, camera.source_width):
            self._misfit.pop(name, None)
            self._frames[name] = frame
        else:
            self._misfit[name] = (
                f"camera {name} gives {width} × {height}, the checkpoint was trained on {camera.source_width} × "
                f"{camera.source_height}; set the camera to that size or take another checkpoint"
            )

    def hear(self, report: ArmReport) -> None:
        """A report arrived: it tells whether the chunk sent last was taken up and is done."""
        self._report, self._heard_s = report, self._clock()
        self._followed |= self._running and report.follows_policy
        if self._sent_stamp_s is None:
            return
        if abs(report.chunk_stamp_s - self._sent_stamp_s) < SAME_STAMP_S:
            if report.actions_left == 0:
                self._refusals = 0 if report.actions_done else self._refusals + 1
                self._sent_stamp_s = None
                self._not_before_s = report.stamp_s - FRAME_PERIOD_S
        elif self._heard_s - self._sent_s > TAKE_UP_S:
            self._refusals += 1
            self._sent_stamp_s = None
            self._not_before_s = self._heard_s - FRAME_PERIOD_S

    def take(self, instruction: str) -> Observation | None:
        """The observation to act on now, or None if it is not time or a fresh frame is still to come."""
        report = self._report
        if not self._running or self._busy or self._sent_stamp_s is not None or report is None:
            return None
        if not report.follows_policy or report.actions_left > 0 or report.faults or self._misfit:
            return None
        oldest_s = max(self._not_before_s, self._clock() - self._max_age_s)
        if not all(name in self._frames and self._frames[name].stamp_s >= oldest_s for name in self._cameras):
            return None
        self._busy = True
        images = {name: self._frames[name].image for name in self._cameras}
        stamp_s = min(self._frames[name].stamp_s for name in self._cameras)
        return Observation(images, report.tcp_commanded, report.gripper_measured, instruction, stamp_s)

    def sent(self, stamp_s: float) -> None:
        """The chunk made from the observation of that time is on its way to the arm."""
        self._busy = False
        self._sent_stamp_s, self._sent_s = stamp_s, self._clock()

    def missing(self) -> str:
        """What must still be heard of before a start, in words; empty if all is there."""
        if self._misfit:
            return "contract: " + "; ".join(self._misfit.values())
        if unseen := [name for name in self._cameras if self._is_silent(name)]:
            return f"camera: no frames of {', '.join(unseen)} on camera/<name>/image_raw"
        if self._report is None or self._clock() - self._heard_s > ARM_SILENT_S:
            return "arm: arm/state is silent; is arm_driver_node running?"
        return ""

    def problem(self) -> str:
        """Why a running policy cannot go on, in words that name the part; empty if it can."""
        now, report = self._clock(), self._report
        if self._misfit:
            return "contract: " + "; ".join(self._misfit.values())
        if report is None or now - self._heard_s > ARM_SILENT_S:
            return f"arm: arm/state silent for {now - (self._heard_s or self._started_s):.1f} s"
        if report.faults:
            return f"arm: {'; '.join(report.faults)}"
        if not report.follows_policy and (self._followed or now - self._started_s > ENTER_POLICY_S):
            return f"arm: in mode {report.mode}: {report.reason}"
        if self._refusals >= REFUSALS:
            return f"arm: {self._refusals} chunks in a row came to nothing: {report.reason}"
        for name in self._cameras:
            if self._is_silent(name):
                last_s = self._frames[name].stamp_s if name in self._frames else self._started_s
                return f"camera: {name} silent for {now - last_s:.1f} s"
        return ""

    def _is_silent(self, name: str) -> bool:
        return name not in self._frames or self._clock() - self._frames[name].stamp_s > self._max_age_s
