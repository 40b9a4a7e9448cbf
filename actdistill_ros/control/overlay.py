"""What the policy sees and plans, drawn onto the camera's frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from actdistill_ros.camera.source import Intrinsics
from actdistill_ros.contract.chunk import GRIPPER, ROTATION, TRANSLATION, Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.pose import integrate

HEIGHT = 576
"""Frames are enlarged by a whole factor to about this many rows."""
PANEL = 92
"""Rows below the frame for words and the plan."""
_INK, _DIM, _BACK = (240, 240, 240), (150, 150, 150), (24, 26, 30)
_RAN, _SKIPPED = (70, 180, 120), (70, 74, 82)
_OPEN, _CLOSED, _REST = (80, 220, 255), (255, 150, 60), (150, 150, 150)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class CameraPose:
    """Where a camera is in `base_link`; rotation (3, 3): its optical axes (x right, y down, z forward)."""

    position_m: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is drawn beside the frame. executed: (L,) bool; path_m: (K + 1, 3) in `base_link`; gripper: (K,) opening."""

    instruction: str = ""
    status: str = ""
    executed: tuple[bool, ...] = ()
    latency_ms: float = 0.0
    path_m: np.ndarray | None = None
    gripper: np.ndarray | None = None
    execute: int = 0


def look_at(position_m: np.ndarray, target_m: np.ndarray) -> CameraPose | None:
    """A camera that looks at a point and has the base's z upwards in its picture; None if it has no direction."""
    forward = np.asarray(target_m, float) - position_m
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-9:
        return None
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    return CameraPose(np.asarray(position_m, float), np.column_stack([right, np.cross(forward, right), forward]))


def project(points_m: np.ndarray, intrinsics: Intrinsics, camera: CameraPose) -> np.ndarray:
    """(N, 3) points in `base_link` to (N, 2) pixels, without distortion; NaN for what is behind the camera."""
    x, y, z = ((points_m - camera.position_m) @ camera.rotation).T
    z = np.where(z > 1e-6, z, np.nan)
    return np.column_stack([intrinsics.fx * x / z + intrinsics.cx, intrinsics.fy * y / z + intrinsics.cy])


def predicted_path(start: ArmPose, chunk: Chunk) -> np.ndarray:
    """(K + 1, 3) TCP positions in `base_link` that the chunk leads through [m]. Raises ValueError if not finite."""
    poses = [start]
    for action in chunk.actions:
        poses.append(integrate(poses[-1], action[TRANSLATION], action[ROTATION]))
    return np.array([pose.position_m for pose in poses])


def plan_of(chunk: Chunk, start: ArmPose, **more) -> Plan:
    return Plan(
        instruction=chunk.instruction,
        path_m=predicted_path(start, chunk),
        gripper=chunk.actions[:, GRIPPER],
        execute=chunk.execute,
        **more,
    )


def draw(frame: np.ndarray, plan: Plan, intrinsics: Intrinsics | None, camera: CameraPose | None) -> np.ndarray:
    """(H, W, 3) uint8 RGB frame to the overlay, enlarged, even-sized, with a panel below; the frame is left as it is.

    The path is drawn only where the camera's numbers and pose are known.
    """
    scale = max(1, round(HEIGHT / frame.shape[0]))
    picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    if plan.path_m is not None and intrinsics is not None and camera is not None:
        pixels = project(plan.path_m, intrinsics, camera)
        _draw_path(picture, (pixels + 0.5) * scale - 0.5, plan)
    height, width = picture.shape[:2]
    canvas = np.empty((height + PANEL, width + width % 2, 3), np.uint8)
    canvas[:] = _BACK
    canvas[:height, :width] = picture
    _draw_panel(canvas, height, plan)
    return canvas[: len(canvas) // 2 * 2]


def _draw_path(picture: np.ndarray, pixels: np.ndarray, plan: Plan) -> None:
    """Executed part bright, coloured by what the gripper shall do; the rest of the chunk grey."""
    for i in reversed(range(len(pixels) - 1)):
        if not np.isfinite(pixels[i : i + 2]).all() or np.abs(pixels[i : i + 2]).max() > 1e5:
            continue
        colour = (_OPEN if plan.gripper[i] > 0.5 else _CLOSED) if i < plan.execute else _REST
        first, second = (tuple(int(v) for v in np.round(p)) for p in pixels[i : i + 2])
        cv2.line(picture, first, second, colour, 3 if i < plan.execute else 2, cv2.LINE_AA)
        cv2.circle(picture, second, 4 if i < plan.execute else 3, colour, -1, cv2.LINE_AA)


def _draw_panel(canvas: np.ndarray, top: int, plan: Plan) -> None:
    width = canvas.shape[1]
    _write(canvas, plan.instruction or "no task", (10, top + 24), 0.6, _INK, width - 20)
    _write(canvas, plan.status, (10, top + 48), 0.45, _DIM, width - 20)
    if not plan.executed:
        return
    words = f"{sum(plan.executed)} of {len(plan.executed)} layers, {plan.latency_ms:.0f} ms"
    left, right = 10, width - 10 - cv2.getTextSize(words, _FONT, 0.45, 1)[0][0] - 10
    cell = max(2.0, (right - left) / len(plan.executed))
    for i, ran in enumerate(plan.executed):
        a, b = (int(left + i * cell), top + 62), (int(left + (i + 1) * cell) - 3, top + 80)
        cv2.rectangle(canvas, a, b, _RAN if ran else _SKIPPED, -1 if ran else 1)
    _write(canvas, words, (right + 10, top + 76), 0.45, _DIM, width)


def _write(canvas: np.ndarray, text: str, at: tuple[int, int], size: float, colour, room: int) -> None:
    """One line, cut with dots where the room ends; OpenCV's font knows ASCII only."""
    text = text.encode("ascii", "replace").decode()
    while len(text) > 4 and cv2.getTextSize(text, _FONT, size, 1)[0][0] > room:
        text = text[:-4] + "..."
    cv2.putText(canvas, text, at, _FONT, size, colour, 1, cv2.LINE_AA)
