"""The mapping file: which column of a foreign data set is which camera, pose, gripper, action and sentence here."""

from __future__ import annotations

from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from actdistill_ros.contract.action_spaces import parts
from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.known import convention
from actdistill_ros.contract.action_spaces.parts import Frame, Rotation
from actdistill_ros.contract.chunk import ACTION_DIM
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.source import Source, describe

ROTATIONS = {"rpy": 3, "rotvec": 3, "quat_xyzw": 4, "quat_wxyz": 4, "columns": 6, "matrix": 9}
"""How a rotation may be written, and in how many numbers: roll-pitch-yaw about the fixed x, y, z axes; rotation vector;
quaternions; the first two columns of the matrix; the matrix row by row."""
DELTA_ROTATIONS = {"rpy": Rotation.EULER, "rotvec": Rotation.VECTOR}
KINDS = ("deltas", "poses", "state")
FRAMES = {frame.value: frame for frame in Frame}
LAST_STEPS = ("keep", "drop")


@dataclass(frozen=True)
class Columns:
    """Some elements of a source's column, by name or number; all of them without `picked`. `scale` multiplies them."""

    source: str
    picked: tuple[str | int, ...] | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Gripper:
    """A number that is `closed` when the gripper is closed and `open` when it is wide open, whatever its unit."""

    columns: Columns
    closed: float
    open: float


@dataclass(frozen=True)
class PoseColumns:
    """position [m] and rotation, written as one of `ROTATIONS`, both in the frame of the arm's base; gripper."""

    position: Columns
    rotation: Columns
    written_as: str
    gripper: Gripper

    @property
    def widths(self) -> list[tuple[str, Columns, int]]:
        """What is read, and how many numbers each is."""
        rotation = f"rotation as {self.written_as}", self.rotation, ROTATIONS[self.written_as]
        return [("position", self.position, 3), rotation, ("gripper", self.gripper.columns, 1)]


@dataclass(frozen=True)
class Joints:
    """The pose of an ARX X5 by the angles of its six joints [rad]; gripper."""

    angles: Columns
    gripper: Gripper

    @property
    def widths(self) -> list[tuple[str, Columns, int]]:
        return [("joints", self.angles, 6), ("gripper", self.gripper.columns, 1)]


@dataclass(frozen=True)
class Deltas:
    """Seven numbers, of one column or of several, in an action space that is known by name or spelt out here."""

    columns: tuple[Columns, ...]
    convention: Convention


@dataclass(frozen=True)
class Poses:
    """Where the arm was told to be."""

    pose: PoseColumns | Joints


@dataclass(frozen=True)
class Achieved:
    """No actions were recorded, or none that can be used: what the state did until the next frame counts as told."""


@dataclass(frozen=True)
class CameraColumn:
    """A camera's images: turned by a multiple of 90° counter-clockwise, then resized to (H, W) if a size is given."""

    source: str
    rotate_deg: int = 0
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Mapping:
    """What the file says; source_fps is what the data were recorded at, fps what is made of them."""

    robot: str
    source_fps: float
    fps: int
    cameras: Table[str, CameraColumn]
    instruction: str
    state: PoseColumns | Joints
    action: Deltas | Poses | Achieved
    last_step: str = "keep"

    @property
    def stride(self) -> int:
        """Source frames per frame made of them."""
        return round(self.source_fps / self.fps)

    @property
    def numbers(self) -> list[Columns]:
        """All columns of numbers that are read."""
        poses = [self.state] + ([self.action.pose] if isinstance(self.action, Poses) else [])
        deltas = self.action.columns if isinstance(self.action, Deltas) else ()
        return [*deltas, *(columns for pose in poses for _, columns, _ in pose.widths)]

    def keys(self) -> list[str]:
        """Every column of the source that is read, once."""
        images = [camera.source for camera in self.cameras.values()]
        return list(dict.fromkeys([*images, self.instruction, *(each.source for each in self.numbers)]))


def load(path: Path) -> Mapping:
    """Read the file (YAML or JSON); DataError names the entry that is missing, unknown or of a wrong kind."""
    try:
        body = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DataError(f"mapping {path} is missing; docs/datasets.md has examples.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"mapping {path} is neither YAML nor JSON: {error}") from error
    try:
        return _mapping(_Entry(body, "mapping"))
    except (DataError, ContractError) as error:
        raise DataError(f"{path}: {error}") from None


def check_fit(mapping: Mapping, source: Source) -> None:
    """Raises DataError unless the source has every column that the mapping names, in its kind, size and rate."""
    for name, camera in mapping.cameras.items():
        _of_kind(source, camera.source, "image", f"camera {name}")
    _of_kind(source, mapping.instruction, "text", "instruction")
    for columns in mapping.numbers:
        _of_kind(source, columns.source, "number", "state or action")
    _check_pose(source, mapping.state, "state")
    if isinstance(mapping.action, Poses):
        _check_pose(source, mapping.action.pose, "action")
    if isinstance(mapping.action, Deltas):
        widths = {1: (ACTION_DIM,), 3: (3, 3, 1)}[len(mapping.action.columns)]
        for columns, width in zip(mapping.action.columns, widths, strict=True):
            _check_width(source, columns, width, "action")
    if source.fps is not None and abs(source.fps - mapping.source_fps) > 1e-3 * source.fps:
        raise DataError(
            f"the mapping says fps.source {mapping.source_fps:g}, {source.folder} was recorded at {source.fps:g}; "
            "correct fps in the mapping."
        )


def indices(columns: Columns, source: Source) -> list[int]:
    """Which elements of the source's flattened column are meant; DataError lists the names if one is not there."""
    field = source.fields[columns.source]
    width = int(np.prod(field.shape))
    if columns.picked is None:
        return list(range(width))
    found = []
    for each in columns.picked:
        if isinstance(each, str) and each in (field.names or ()):
            found.append(field.names.index(each))
        elif isinstance(each, int) and 0 <= each < width:
            found.append(each)
        else:
            raise DataError(
                f"{columns.source} has no element {each!r}; it has {width}: {', '.join(field.names or ('no names',))}."
            )
    return found


def _check_pose(source: Source, pose: PoseColumns | Joints, what: str) -> None:
    for name, columns, width in pose.widths:
        _check_width(source, columns, width, f"{what}.{name}")


def _of_kind(source: Source, key: str, kind: str, what: str) -> None:
    if key not in source.fields or source.fields[key].kind != kind:
        there = f"{key!r} is a column of {source.fields[key].kind}s" if key in source.fields else f"there is no {key!r}"
        raise DataError(f"{what}: {there} in {source.folder}, expected {kind}s. It has {describe(source.fields)}.")


def _check_width(source: Source, columns: Columns, expected: int, what: str) -> None:
    if (found := len(indices(columns, source))) != expected:
        names = source.fields[columns.source].names
        raise DataError(
            f"{what} takes {expected} numbers, the mapping gives {found} of {columns.source}; "
            f"choose them with columns{f' out of {list(names)}' if names else ''}."
        )


class _Entry:
    """A table of the file that must be used up: what nobody asked for is a typing error."""

    def __init__(self, body: object, path: str) -> None:
        if not isinstance(body, dict):
            raise DataError(f"{path} is {body!r}, expected a table of entries; docs/datasets.md has examples.")
        self._body, self._path = dict(body), path

    def take(self, name: str, kind: type | tuple, default: object = None):
        if name not in self._body:
            if default is None:
                raise DataError(f"{self._path}.{name} is missing; docs/datasets.md says what it is for.")
            return default
        value = self._body.pop(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise DataError(f"{self._path}.{name} is {value!r}, expected {names}.")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self.take(name, str, default)
        if value not in choices:
            raise DataError(f"{self._path}.{name} is {value!r}, expected one of {', '.join(choices)}.")
        return value

    def table(self, name: str) -> _Entry:
        return _Entry(self.take(name, object), f"{self._path}.{name}")

    def names(self) -> list[str]:
        return list(map(str, self._body))

    def end(self) -> None:
        if self._body:
            raise DataError(f"{self._path} has an unknown entry {', '.join(map(repr, self._body))}; remove it.")


def _mapping(entry: _Entry) -> Mapping:
    source_fps, fps = _rate(entry.take("fps", (dict, int, float)))
    cameras = entry.table("cameras")
    action = entry.table("action")
    mapping = Mapping(
        robot=entry.take("robot", str),
        source_fps=source_fps,
        fps=fps,
        cameras={name: _camera(cameras.table(name)) for name in cameras.names()},
        instruction=entry.take("instruction", str),
        state=_pose(state := entry.table("state")),
        action=_action(action),
        last_step=entry.choice("last_step", LAST_STEPS, "keep"),
    )
    for each in (cameras, action, state, entry):
        each.end()
    if not mapping.cameras:
        raise DataError("mapping.cameras is empty; name at least one camera.")
    return mapping


def _rate(value: dict | float) -> tuple[float, int]:
    if isinstance(value, dict):
        entry = _Entry(value, "mapping.fps")
        source, target = entry.take("source", (int, float)), entry.take("target", int)
        entry.end()
    else:
        source = target = value
    if not (target > 0 and int(target) == target and abs(source / target - round(source / target)) < 1e-3 <= source):
        raise DataError(
            f"mapping.fps turns {source:g} into {target:g} frames per second; the target must be a whole number and go "
            "into the source a whole number of times, since frames are left out and never made up."
        )
    return float(source), int(target)


def _camera(entry: _Entry) -> CameraColumn:
    size = entry.take("size", list, [])
    degrees = entry.take("rotate_deg", int, 0)
    if size and not (len(size) == 2 and all(isinstance(side, int) and side > 0 and side % 2 == 0 for side in size)):
        raise DataError(f"size of a camera is {size}, expected [height, width] in even numbers of pixels.")
    if degrees % 90:
        raise DataError(f"rotate_deg of a camera is {degrees}, expected 0, 90, 180 or 270.")
    camera = CameraColumn(entry.take("from", str), degrees % 360, tuple(size) or None)
    entry.end()
    return camera


def _pose(entry: _Entry) -> PoseColumns | Joints:
    if "joints" in entry.names():
        return Joints(_columns(entry.table("joints")), _gripper(entry.table("gripper")))
    return _written_pose(entry, tuple(ROTATIONS))


def _written_pose(entry: _Entry, rotations: Sequence[str]) -> PoseColumns:
    rotation, position = entry.table("rotation"), entry.table("position")
    written_as = rotation.choice("as", rotations)
    return PoseColumns(_columns(position), _columns(rotation), written_as, _gripper(entry.table("gripper")))


def _columns(entry: _Entry) -> Columns:
    picked = entry.take("columns", list, [])
    columns = Columns(entry.take("from", str), tuple(picked) or None, float(entry.take("scale", (int, float), 1.0)))
    entry.end()
    return columns


def _gripper(entry: _Entry) -> Gripper:
    closed, opened = float(entry.take("closed", (int, float))), float(entry.take("open", (int, float)))
    if closed == opened:
        raise DataError(f"gripper has the same value {closed:g} for closed and open; give what it reads in each.")
    return Gripper(_columns(entry), closed, opened)


def _action(entry: _Entry) -> Deltas | Poses | Achieved:
    if "convention" in entry.names():
        known = convention(entry.take("convention", str))
        split = "from" not in entry.names()
        parted = [_columns(entry.table(name)) for name in ("position", "rotation", "gripper")] if split else ()
        return Deltas(tuple(parted) or (_columns(entry),), known)
    kind = entry.choice("kind", KINDS)
    if kind == "state":
        return Achieved()
    if kind == "poses":
        return Poses(_pose(entry))
    frame = FRAMES[entry.choice("frame", tuple(FRAMES), "base")]
    pose = _written_pose(entry, tuple(DELTA_ROTATIONS))
    gripper = parts.Gripper(pose.gripper.closed, pose.gripper.open)
    spelt_out = Convention("of the mapping", DELTA_ROTATIONS[pose.written_as], gripper, "the mapping", frame=frame)
    return Deltas((pose.position, pose.rotation, pose.gripper.columns), spelt_out)
