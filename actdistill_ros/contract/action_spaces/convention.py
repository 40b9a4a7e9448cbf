"""One action space as others write it, converted to the product's and back (`Chunk.actions`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.action_spaces.parts import Frame, Gripper, Reference, Rotation
from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.rotation import from_rotation_vector, rotation_vector


@dataclass(frozen=True)
class Start:
    """What was commanded when the chunk's first action begins: TCP pose in `base_link` and gripper opening 0 … 1."""

    tcp_in_base: ArmPose
    opening: float


@dataclass(frozen=True)
class Convention:
    """An action space of three numbers of translation, three of rotation and one of the gripper.

    metres, radians: what one unit of translation and of rotation is worth; limit: numbers of a delta beyond it are
    clipped, as the space's own controller does; source: where the convention is read from.
    """

    name: str
    rotation: Rotation
    gripper: Gripper
    source: str
    metres: float = 1.0
    radians: float = 1.0
    limit: float | None = None
    frame: Frame = Frame.BASE
    reference: Reference = Reference.PREVIOUS

    @property
    def needs_start(self) -> bool:
        """Whether actions can only be read knowing what was commanded before them."""
        return self.frame is Frame.TOOL or self.reference is not Reference.PREVIOUS or self.gripper.relative

    def to_product(self, actions: np.ndarray, start: Start | None = None) -> np.ndarray:
        """Actions (K, 7) of this convention to the product's (K, 7): metres, rotation vectors, opening.

        start: needed if `needs_start`. Raises ContractError if the actions are another robot's, not finite, or if the
        start is missing.
        """
        actions, start = self._checked(actions, "this convention"), self._start(start)
        moves = actions.copy()
        moves[:, :GRIPPER] = self._clipped(actions[:, :GRIPPER])
        moves[:, TRANSLATION] *= self.metres
        moves[:, ROTATION] *= self.radians
        deltas, pose = np.empty_like(moves), start.tcp_in_base
        for row, move in zip(deltas, moves, strict=True):
            after = self._goal(move, pose)
            row[TRANSLATION] = after.position_m - pose.position_m
            row[ROTATION] = rotation_vector(after.rotation @ pose.rotation.T)
            pose = after
        deltas[:, GRIPPER] = self.gripper.openings(actions[:, GRIPPER], start.opening)
        return deltas

    def from_product(self, actions: np.ndarray, start: Start | None = None) -> np.ndarray:
        """Inverse of `to_product`, with the same errors; what the convention cannot say (an opening between closed and
        open, a delta beyond `limit`) becomes the nearest that it can."""
        actions, start = self._checked(actions, "the product"), self._start(start)
        moves, pose = np.empty_like(actions), start.tcp_in_base
        for row, action in zip(moves, actions, strict=True):
            after = ArmPose(
                pose.position_m + action[TRANSLATION], from_rotation_vector(action[ROTATION]) @ pose.rotation
            )
            row[:GRIPPER] = self._move(after, pose)
            pose = after
        moves[:, TRANSLATION] /= self.metres
        moves[:, ROTATION] /= self.radians
        moves[:, :GRIPPER] = self._clipped(moves[:, :GRIPPER])
        moves[:, GRIPPER] = self.gripper.sent(actions[:, GRIPPER], start.opening)
        return moves

    def _goal(self, move: np.ndarray, before: ArmPose) -> ArmPose:
        """Where a move [m, rad] leads to."""
        origin, turn = self._origin(before), self.rotation.matrix(move[ROTATION])
        if self.frame is Frame.TOOL:
            return ArmPose(origin.position_m + origin.rotation @ move[TRANSLATION], origin.rotation @ turn)
        return ArmPose(origin.position_m + move[TRANSLATION], turn @ origin.rotation)

    def _move(self, after: ArmPose, before: ArmPose) -> np.ndarray:
        """Inverse of `_goal`; (6,) [m, rad]."""
        origin = self._origin(before)
        step, back = after.position_m - origin.position_m, origin.rotation.T
        if self.frame is Frame.TOOL:
            return np.concatenate([back @ step, self.rotation.numbers(back @ after.rotation)])
        return np.concatenate([step, self.rotation.numbers(after.rotation @ back)])

    def _origin(self, before: ArmPose) -> ArmPose:
        return before if self.reference is Reference.PREVIOUS else _IDENTITY

    def _clipped(self, moves: np.ndarray) -> np.ndarray:
        return moves if self.limit is None else np.clip(moves, -self.limit, self.limit)

    def _checked(self, actions: np.ndarray, whose: str) -> np.ndarray:
        actions = np.asarray(actions, dtype=float)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM:
            raise ContractError(
                f"action space {self.name!r}: actions have shape {actions.shape}, expected (K, {ACTION_DIM}) in "
                f"{whose}: translation, rotation, gripper. Another number of values is another robot's (14: two arms; "
                "8: joints). Name the action space that these actions were made for."
            )
        if not np.isfinite(actions).all():
            first = np.argwhere(~np.isfinite(actions))[0].tolist()
            raise ContractError(
                f"action space {self.name!r}: value {first} of the actions is not finite; nothing is sent."
            )
        return actions

    def _start(self, start: Start | None) -> Start:
        if start is None and self.needs_start:
            raise ContractError(
                f"action space {self.name!r} counts from what was commanded before; pass "
                "start=Start(tcp_in_base, opening)."
            )
        return start or _NOWHERE


_IDENTITY = ArmPose(np.zeros(3), np.eye(3))
_NOWHERE = Start(_IDENTITY, 1.0)
