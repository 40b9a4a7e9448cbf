"""What should be done next at each recorded frame, as far ahead as a teacher's chunk reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actdistill_ros.contract.action_spaces.convention import Start
from actdistill_ros.contract.chunk import ACTION_NAMES, GRIPPER
from actdistill_ros.contract.contract import STATE_NAMES
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.contract.rotation import orthonormal
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.layout import ACTION, STATE
from actdistill_ros.data.reader import Dataset


class Labels:
    """Of F frames of some data sets, counted through them in order."""

    def __init__(self, sets: Sequence[Dataset], reach: int) -> None:
        """reach: actions per label, K. Raises DataError if there are none of this arm's, or if they do not reach."""
        for one in sets:
            check_columns(one)
            _check_reach(one, reach)
        self._reach = reach
        self._chunks = [one.columns("chunk") for one in sets]  # (F, W, 7) each, W may differ
        self._state = np.concatenate([one.columns(STATE) for one in sets])  # (F, 10)
        for one, chunk in zip(sets, self._chunks, strict=True):
            if not np.isfinite(chunk).all():
                frame = int(np.argwhere(~np.isfinite(chunk))[0, 0])
                raise DataError(
                    f"{one.folder}: column chunk is not finite in frame {frame}; `actdistill dataset verify` names all "
                    "of them. Import it again without those episodes."
                )
        self._offsets = np.cumsum([0] + [len(one) for one in sets])
        lengths = [row.stop - row.start for one in sets for row in one.episodes]
        self.episode = np.repeat(np.arange(len(lengths)), lengths)  # (F,)
        self._last = np.cumsum(lengths) - 1  # (E,)

    def __len__(self) -> int:
        return len(self.episode)

    def at(self, frame: int) -> np.ndarray:
        """(K, 7) in the product's action space.

        As many as the frame was labelled with; then the first actions of the frames that followed; past the end of the
        episode what its last frame was labelled with, and then rest: no motion, the gripper as it is.
        """
        which = int(np.searchsorted(self._offsets, frame, side="right")) - 1
        chunks, here = self._chunks[which], frame - self._offsets[which]
        own = chunks[here, : self._reach]
        if len(own) == self._reach:
            return own.astype(np.float64)
        last = self._last[self.episode[frame]] - self._offsets[which]
        first = here + len(own)  # where its own label ends
        followed = chunks[first : min(last + 1, here + self._reach), 0]
        beyond = chunks[last, max(1, first - last) :]
        found = np.concatenate([own, followed, beyond])[: self._reach].astype(np.float64)
        rest = np.zeros((self._reach - len(found), found.shape[1]))
        rest[:, GRIPPER] = found[-1, GRIPPER]
        return np.concatenate([found, rest])  # (K, 7)

    def start(self, frame: int) -> Start:
        """What was commanded when the frame was seen."""
        state = self._state[frame].astype(np.float64)
        columns = np.column_stack([state[3:6], state[6:9], np.cross(state[3:6], state[6:9])])
        return Start(ArmPose(state[:3], orthonormal(columns)), float(np.clip(state[9], 0.0, 1.0)))


def check_columns(data: Dataset) -> None:
    """Raises DataError if frames have no label, or if state or actions are another robot's."""
    features = data.info["features"]
    if "chunk" not in features:
        raise DataError(
            f"{data.folder} has no column chunk, what should be done next at each frame; expected a data set of "
            "`actdistill collect` or `actdistill dataset import`."
        )
    for column, expected in ((ACTION, ACTION_NAMES), (STATE, STATE_NAMES)):
        found = features.get(column, {}).get("names") or ()
        if tuple(found) != tuple(expected):
            raise DataError(
                f"{data.folder}: {column} is {', '.join(map(str, found)) or 'without names'}, expected "
                f"{', '.join(expected)}: it is another robot's, or was not imported. Use `actdistill dataset import`."
            )


def _check_reach(data: Dataset, reach: int) -> None:
    width = data.info["features"]["chunk"]["shape"][0]
    by_policy = sum(row.meta.get("by") == "policy" for row in data.episodes)
    if width < reach and by_policy:
        raise DataError(
            f"{data.folder} labels each frame with {width} actions, the teacher says {reach} at once; in {by_policy} "
            f"of its {len(data.episodes)} episodes a policy acted, so what follows a frame is not what should be done "
            "next. Use episodes of the expert for this teacher."
        )
