"""What a checkpoint promises about its cameras, state, actions and statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actdistill_ros.contract.chunk import ACTION_NAMES

VERSION = 1
FILE = "contract.json"
STATE_NAMES = (
    "tcp_x_m", "tcp_y_m", "tcp_z_m",
    "tcp_r00", "tcp_r10", "tcp_r20", "tcp_r01", "tcp_r11", "tcp_r21",
    "gripper_opening",
)  # fmt: skip


class ContractError(ValueError):
    """A checkpoint, camera or arm that does not keep the contract; the text says how to mend it."""


@dataclass(frozen=True)
class CameraSpec:
    """One camera as the policy wants it: centre square of the frame, resized by area to `size` × `size` pixels."""

    name: str
    size: int
    source_height: int
    source_width: int


@dataclass(frozen=True)
class ActionSpace:
    """TCP deltas in `base_link` (see `Chunk`), `chunk` of them per step, `execute` run before the next step."""

    period_s: float
    chunk: int
    execute: int
    translation_limit_m: float
    rotation_limit_rad: float
    names: tuple[str, ...] = ACTION_NAMES


@dataclass(frozen=True)
class Statistics:
    """Range of each action dimension in the training data; unmasked dimensions are passed through.

    q01, q99: (7,) quantiles in the units of `Chunk.actions`; mask: True where the dimension is normalised.
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]
    samples: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Contract:
    """Everything outside the weights that must agree between training and the robot."""

    robot: str
    cameras: tuple[CameraSpec, ...]
    action: ActionSpace
    statistics: Mapping[str, Statistics]
    statistics_key: str
    state: tuple[str, ...] = STATE_NAMES
    instructions: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def active_statistics(self) -> Statistics:
        return self.statistics[self.statistics_key]

    def executing(self, execute: int, whose: str) -> Contract:
        """The same where another number of actions runs of each chunk. whose: for the error's text.

        Raises ContractError if a chunk does not have as many.
        """
        chunk = self.action.chunk
        if not 1 <= execute <= chunk:
            raise ContractError(
                f"{whose} makes chunks of {chunk} actions; execute {execute} is not one of 1 … {chunk}."
            )
        return replace(self, action=replace(self.action, execute=execute))

    def save(self, folder: Path) -> None:
        body = asdict(self)
        body["statistics_sha256"] = {key: value.digest() for key, value in self.statistics.items()}
        (folder / FILE).write_text(json.dumps(body, indent=1) + "\n")


def load(folder: Path, statistics_key: str | None = None) -> Contract:
    """The contract stored beside a checkpoint's weights.

    Raises ContractError if the file is missing, of another version, has a broken statistics hash, or if
    `statistics_key` is not one of its keys.
    """
    path = folder / FILE
    if not path.is_file():
        raise ContractError(
            f"{folder} has no {FILE}: a checkpoint without a contract is not run. Train or export it again."
        )
    try:
        body = json.loads(path.read_text())
        if body["version"] != VERSION:
            raise ContractError(f"{path} is contract version {body['version']}, this package reads version {VERSION}.")
        hashes = body.pop("statistics_sha256")
        statistics = {key: _statistics(value) for key, value in body.pop("statistics").items()}
        cameras = tuple(CameraSpec(**camera) for camera in body.pop("cameras"))
        action = body.pop("action")
        key = statistics_key or body.pop("statistics_key")
        body.pop("statistics_key", None)
        contract = Contract(
            cameras=cameras,
            action=ActionSpace(**{**action, "names": tuple(action["names"])}),
            statistics=statistics,
            statistics_key=key,
            state=tuple(body.pop("state")),
            instructions=tuple(body.pop("instructions")),
            **body,
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ContractError(
            f"{path} is not a contract this package reads: {error!r}. Train or export it again."
        ) from error
    _check(contract, hashes, path)
    return contract


def _statistics(body: dict) -> Statistics:
    return Statistics(tuple(body["q01"]), tuple(body["q99"]), tuple(body["mask"]), body["samples"])


def _check(contract: Contract, hashes: Mapping[str, str], path: Path) -> None:
    valid = ", ".join(sorted(contract.statistics))
    if contract.statistics_key not in contract.statistics:
        raise ContractError(f"{path} has no statistics {contract.statistics_key!r}; valid keys: {valid or 'none'}.")
    for key, value in contract.statistics.items():
        if hashes.get(key) != value.digest():
            raise ContractError(
                f"{path}: statistics {key!r} do not match their hash; the file was changed by hand. Export again."
            )
        if not (len(value.q01) == len(value.q99) == len(value.mask) == len(contract.action.names)):
            raise ContractError(
                f"{path}: statistics {key!r} have {len(value.q01)} dimensions, actions have "
                f"{len(contract.action.names)}."
            )
    if contract.action.names != ACTION_NAMES:
        raise ContractError(f"{path}: actions {contract.action.names}, this arm takes {ACTION_NAMES}.")
    if contract.state != STATE_NAMES:
        raise ContractError(f"{path}: state {contract.state}, this arm gives {STATE_NAMES}.")
    if not 1 <= contract.action.execute <= contract.action.chunk:
        raise ContractError(f"{path}: execute {contract.action.execute} is not in 1 … chunk {contract.action.chunk}.")
