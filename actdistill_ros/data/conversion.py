"""One recorded episode of a foreign data set into an episode of this package, as the mapping says; the only place where
units, frames and conventions change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from actdistill_ros.contract.action_spaces.convention import Start
from actdistill_ros.contract.action_spaces.parts import Rotation
from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.preprocess import state_vector
from actdistill_ros.contract.rotation import from_quaternion_xyzw, orthonormal, rotation_vector
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.data.episode import DataError, Episode
from actdistill_ros.data.mapping import (
    CameraColumn,
    Columns,
    Deltas,
    Gripper,
    Joints,
    Mapping,
    PoseColumns,
    Poses,
    indices,
)
from actdistill_ros.data.source import Recorded, Source

NO_SEED = -1
"""The scene was made by nobody's random numbers."""
CHUNK = 8
"""Actions that each frame is labelled with unless told otherwise: its own and those that follow."""
LARGEST_STEP_M, LARGEST_STEP_RAD = 0.3, 1.6
"""No arm moves further from one frame to the next; what does is not in metres and radians."""
GRIPPER_SLACK = 0.1
"""Of the gripper's range: how far a reading may lie outside it."""
ROTATION_SLACK = 0.02
JOINT_SLACK_RAD = 0.1


@dataclass(frozen=True)
class Converter:
    """`convert` makes episodes; the (H, W) of each camera is known beforehand, so that all episodes are alike."""

    mapping: Mapping
    source: Source
    chunk: int = CHUNK

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        return {name: self._size(camera) for name, camera in self.mapping.cameras.items()}

    def convert(self, recorded: Recorded) -> Episode:
        """Raises DataError, which names episode and frame, for what is not finite, not in its range, or not alike."""
        where = f"episode {recorded.index} of {self.source.folder}"
        stop = recorded.length - (self.mapping.last_step == "drop")
        kept = np.arange(0, stop, self.mapping.stride)
        if not len(kept):
            raise DataError(f"{where} has {recorded.length} frames, too few to keep one; pass it over with --skip.")
        state = self._poses(recorded, self.mapping.state, "state", where)
        action = _decimated(self._deltas(recorded, state, where)[:stop], self.mapping.stride)
        images = {name: self._images(recorded, camera, kept, where) for name, camera in self.mapping.cameras.items()}
        return Episode(
            images=images,
            state=np.stack([state_vector(ArmPose(*state[i][:2]), state[i][2]) for i in kept]),
            action=action.astype(np.float32),
            instruction=self._sentence(recorded, where),
            seed=NO_SEED,
            extras={"chunk": chunks(action, self.chunk).astype(np.float32)},
            meta={"source_episode": recorded.index, "source_frames": recorded.length},
        )

    def _sentence(self, recorded: Recorded, where: str) -> str:
        found = list(dict.fromkeys(text.strip() for text in recorded.values[self.mapping.instruction].tolist()))
        if "" in found:
            raise DataError(f"{where} has an empty {self.mapping.instruction}; every episode needs its sentence.")
        if len(found) != 1:
            raise DataError(
                f"{where} has {len(found)} sentences ({found[0]!r}, {found[1]!r} …), expected one; split it."
            )
        return found[0]

    def _numbers(self, recorded: Recorded, columns: Columns, where: str) -> np.ndarray:
        """(T, k) float64, scaled."""
        values = recorded.values[columns.source].reshape(recorded.length, -1)[:, indices(columns, self.source)]
        if not np.isfinite(values).all():
            frame, element = np.argwhere(~np.isfinite(values))[0]
            raise DataError(
                f"frame {frame} of {where} has {values[frame, element]} in {columns.source}, expected a finite number; "
                "pass the episode over with --skip."
            )
        return values * columns.scale

    def _opening(self, recorded: Recorded, gripper: Gripper, where: str) -> np.ndarray:
        """(T,) 0 closed … 1 open."""
        values = self._numbers(recorded, gripper.columns, where)[:, 0]
        return _opening(values, gripper.closed, gripper.open, f"{gripper.columns.source} of {where}")

    def _poses(self, recorded: Recorded, pose: PoseColumns | Joints, what: str, where: str) -> list[tuple]:
        """(position (3,) [m], rotation (3, 3), opening) of each frame."""
        openings = self._opening(recorded, pose.gripper, where).tolist()
        if isinstance(pose, Joints):
            reached = [X5.chain.forward(angles) for angles in self._angles(recorded, pose, where)]
            return [(tcp.position_m, tcp.rotation, o) for tcp, o in zip(reached, openings, strict=True)]
        positions = self._numbers(recorded, pose.position, where)
        written = self._numbers(recorded, pose.rotation, where)
        read = ROTATION_READERS[pose.written_as]
        try:
            return [(p, read(r), o) for p, r, o in zip(positions, written, openings, strict=True)]
        except ValueError as error:
            raise DataError(f"{what}.rotation of {where} is not {pose.written_as}: {error}.") from error

    def _angles(self, recorded: Recorded, joints: Joints, where: str) -> np.ndarray:
        """(T, 6) [rad], within the arm's limits."""
        angles = self._numbers(recorded, joints.angles, where)
        outside = np.argwhere((angles < JOINT_MIN - JOINT_SLACK_RAD) | (angles > JOINT_MAX + JOINT_SLACK_RAD))
        if len(outside):
            frame, joint = outside[0]
            raise DataError(
                f"frame {frame} of {where} has joint {joint + 1} at {angles[frame, joint]:.2f} rad, an ARX X5 reaches "
                f"{JOINT_MIN[joint]:.2f} to {JOINT_MAX[joint]:.2f}: it is in degrees (give a scale), or of another arm."
            )
        return angles

    def _deltas(self, recorded: Recorded, state: list[tuple], where: str) -> np.ndarray:
        """(T, 7) float64 in the order of `ACTION_NAMES`, at the source's rate."""
        action = self.mapping.action
        if isinstance(action, Deltas):
            told = np.column_stack([self._numbers(recorded, columns, where) for columns in action.columns])
            self._check_gripper(told[:, GRIPPER], action, where)
            moves = action.convention.to_product(told, Start(ArmPose(*state[0][:2]), min(max(state[0][2], 0.0), 1.0)))
        elif isinstance(action, Poses):
            moves = _between(state[0], self._poses(recorded, action.pose, "action", where))
        else:
            moves = _between(state[0], [*state[1:], state[-1]])
        self._check_units(moves, where)
        return moves

    def _check_gripper(self, told: np.ndarray, action: Deltas, where: str) -> None:
        gripper = action.convention.gripper
        if not gripper.relative:
            _opening(told, gripper.closed, gripper.open, f"{action.columns[-1].source} of {where}")

    def _check_units(self, moves: np.ndarray, where: str) -> None:
        far = np.linalg.norm(moves[:, TRANSLATION], axis=1), np.linalg.norm(moves[:, ROTATION], axis=1)
        for distance, largest, unit in zip(far, (LARGEST_STEP_M, LARGEST_STEP_RAD), ("m", "rad"), strict=True):
            frame = int(np.argmax(distance))
            if distance[frame] > largest:
                raise DataError(
                    f"frame {frame} of {where} moves by {distance[frame]:.2f} {unit}, more than {largest} {unit} in "
                    "one step: its actions are normalised, or in another unit, or not deltas. Correct kind or scale."
                )

    def _size(self, camera: CameraColumn) -> tuple[int, int]:
        """(H, W) after turning and resizing; even, since videos have colours for squares of four pixels."""
        if camera.size:
            return camera.size
        height, width = self.source.fields[camera.source].shape[:2]
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise DataError(
                f"{camera.source} has images of {height}x{width}, expected even sides; give a size in the mapping."
            )
        return (width, height) if camera.rotate_deg % 180 else (height, width)

    def _images(self, recorded: Recorded, camera: CameraColumn, kept: np.ndarray, where: str) -> np.ndarray:
        """(T, H, W, 3) uint8; the others are decoded in passing and dropped at once."""
        size, stride, position = self._size(camera), self.mapping.stride, 0
        images = np.empty((len(kept), *size, 3), np.uint8)
        for number, image in enumerate(recorded.frames(camera.source)):
            if number % stride or position == len(kept):
                continue
            image = np.rot90(image, camera.rotate_deg // 90)
            if camera.size and image.shape[:2] != size:
                image = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_AREA)
            if image.shape != (*size, 3):
                raise DataError(
                    f"frame {number} of {where} has {camera.source} as {image.shape}, expected {(*size, 3)}; "
                    "give the camera a size in the mapping."
                )
            images[position] = image
            position += 1
        if position != len(kept):
            raise DataError(f"{where} has {position} images of {camera.source}, expected {len(kept)}.")
        return images


def _opening(values: np.ndarray, closed: float, opened: float, where: str) -> np.ndarray:
    """(T,) readings to 0 closed … 1 open, or a little beyond where fingers give way; DataError if far from it."""
    opening = (values - closed) / (opened - closed)
    outside = np.flatnonzero((opening < -GRIPPER_SLACK) | (opening > 1 + GRIPPER_SLACK))
    if len(outside):
        raise DataError(
            f"frame {outside[0]} in {where} has the gripper at {values[outside[0]]:g}, expected {closed:g} closed to "
            f"{opened:g} open; correct closed and open, or the convention, in the mapping."
        )
    return opening


def chunks(action: np.ndarray, size: int = CHUNK) -> np.ndarray:
    """(T, 7) actions to (T, size, 7): each frame's own action and those after it; past the end the arm holds."""
    hold = np.zeros((size - 1, ACTION_DIM))
    hold[:, GRIPPER] = action[-1, GRIPPER]
    ahead = np.concatenate([action, hold])
    return np.stack([ahead[i : i + size] for i in range(len(action))])


def _between(start: tuple, targets: list[tuple]) -> np.ndarray:
    """(T, 7): how to get from each pose to the next one, and the opening there."""
    poses = [ArmPose(*start[:2]), *(ArmPose(*target[:2]) for target in targets)]
    moves = [np.concatenate(difference(goal, here)) for here, goal in pairwise(poses)]
    return np.column_stack([moves, np.clip([target[2] for target in targets], 0.0, 1.0)])


def _decimated(action: np.ndarray, stride: int) -> np.ndarray:
    """Each `stride` actions as one: composed on SO(3), with the last one's gripper."""
    if stride == 1:
        return action
    result = []
    for first in range(0, len(action), stride):
        pose = ArmPose(np.zeros(3), np.eye(3))
        for each in action[first : first + stride]:
            pose = integrate(pose, each[TRANSLATION], each[ROTATION])
        result.append([*pose.position_m, *rotation_vector(pose.rotation), each[GRIPPER]])
    return np.array(result)


def _from_columns(six: np.ndarray) -> np.ndarray:
    """(6,) first two columns of the matrix, to (3, 3)."""
    first, second = six[:3], six[3:]
    return _checked(np.column_stack([first, second, np.cross(first, second)]))


def _checked(matrix: np.ndarray) -> np.ndarray:
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > ROTATION_SLACK or np.linalg.det(matrix) < 0:
        raise ValueError(f"{matrix.round(3).tolist()} is no rotation matrix")
    return orthonormal(matrix)


def _from_quaternion(xyzw: np.ndarray) -> np.ndarray:
    if abs(np.linalg.norm(xyzw) - 1) > ROTATION_SLACK:
        raise ValueError(f"quaternion {xyzw.round(3).tolist()} has norm {np.linalg.norm(xyzw):.3f}, expected 1")
    return from_quaternion_xyzw(xyzw)


ROTATION_READERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rpy": Rotation.EULER.matrix,
    "rotvec": Rotation.VECTOR.matrix,
    "quat_xyzw": _from_quaternion,
    "quat_wxyz": lambda q: _from_quaternion(np.roll(q, -1)),
    "columns": _from_columns,
    "matrix": lambda nine: _checked(nine.reshape(3, 3)),
}


def episodes(converter: Converter, wanted: Callable[[int], bool]) -> Iterator[tuple[Recorded, Episode]]:
    """The wanted episodes of the source, converted one at a time."""
    for recorded in converter.source.read(converter.mapping.keys(), wanted):
        yield recorded, converter.convert(recorded)
