"""The episodes of the sample data sets under test/data/, as formulas; numpy alone, so that any writer can use it.

A made-up arm moves by small deltas in its base frame; its state is the pose that it was last told to reach, as
position, roll-pitch-yaw and the gripper's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FPS = 10
LENGTHS = (6, 5, 7)
SENTENCES = ("Put the red block in the bowl.", "push the blue block left", "put the red block in the bowl")
CAMERAS = {"top": (48, 64), "hand": (32, 32)}
STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "width")
ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "grip")
WIDEST_M = 0.08


@dataclass(frozen=True)
class Sample:
    """T frames: images by camera (T, H, W, 3) uint8, state (T, 7), action (T, 7), both float32."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    sentence: str


def episode(number: int) -> Sample:
    length = LENGTHS[number]
    t = np.arange(length)
    action = np.zeros((length, 7))
    action[:, 0] = 0.01 * np.cos(0.7 * t + number)
    action[:, 1] = 0.005 * np.sin(1.1 * t + number)
    action[:, 2] = -0.004
    action[:, 5] = 0.05 * np.sin(0.9 * t + number)  # about z alone, so that roll-pitch-yaw add up
    action[:, 6] = t < length // 2  # 1 open, 0 closed
    state = np.zeros((length, 7))
    state[0] = (0.25, 0.02 * number, 0.15, 0.0, 0.0, 0.1 * number, WIDEST_M)
    for i in range(1, length):
        state[i, :6] = state[i - 1, :6] + action[i - 1, :6]
        state[i, 6] = WIDEST_M * action[i - 1, 6]
    images = {name: np.stack([picture(name, number, frame) for frame in range(length)]) for name in CAMERAS}
    return Sample(images, state.astype(np.float32), action.astype(np.float32), SENTENCES[number])


def picture(camera: str, number: int, frame: int) -> np.ndarray:
    """A red square that moves right with each frame on a ground whose grey tells the episode; a blue mark on top."""
    height, width = CAMERAS[camera]
    image = np.full((height, width, 3), 90 + 40 * number, np.uint8)
    image[2:8, 2:14] = (30, 40, 210)
    left = 2 + 4 * frame
    image[height // 2 : height // 2 + 10, left : left + 10] = (210, 30, 40)
    return image


def mapping(rlds: bool = False, **changes) -> dict:
    """What a user would write for the sample data sets; `changes` replace entries of the first level."""
    image, state = ("observation/", "observation/state") if rlds else ("observation.images.", "observation.state")

    def pick(column: str, names: tuple[str, ...], first: int) -> dict:
        return {"from": column, "columns": list(range(first, first + len(names))) if rlds else list(names)}

    return {
        "robot": "made_up_arm",
        "fps": FPS,
        "cameras": {"front": {"from": f"{image}top"}, "wrist": {"from": f"{image}hand"}},
        "instruction": "language_instruction" if rlds else "task",
        "state": {
            "position": pick(state, STATE_NAMES[:3], 0),
            "rotation": {**pick(state, STATE_NAMES[3:6], 3), "as": "rpy"},
            "gripper": {**pick(state, STATE_NAMES[6:], 6), "closed": 0.0, "open": WIDEST_M},
        },
        "action": {
            "kind": "deltas",
            "position": pick("action", ACTION_NAMES[:3], 0),
            "rotation": {**pick("action", ACTION_NAMES[3:6], 3), "as": "rpy"},
            "gripper": {**pick("action", ACTION_NAMES[6:], 6), "closed": 0, "open": 1},
        },
    } | changes
