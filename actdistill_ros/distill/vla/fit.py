"""Whether recorded actions are ones that a teacher can say: how many lie outside its range, what saying them loses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actdistill_ros.contract.chunk import ACTION_NAMES, GRIPPER, ROTATION, TRANSLATION
from actdistill_ros.distill.vla.labels import Labels
from actdistill_ros.distill.vla.speech import Speech

LOOKED_AT = 4096
"""Frames, evenly spread, that the fit is found from."""
EXPECTED, LARGEST = 0.02, 0.2
"""Share of the actions outside q01 … q99: of the data that these come from; from which on the data are refused."""
SMALLEST = 0.04
"""Share of the teacher's range that translations span at least: ten of 255 bins. Metres said in another unit span
less."""
_OFTEN = 95


@dataclass(frozen=True)
class Fit:
    """outside: share of the actions beyond the teacher's range, (6,); used: share of that range that the middle 98 % of
    the actions span, (6,); lost: what 95 of 100 actions lose at most by being said and understood again: [m], [rad],
    opening; looked_at: actions counted."""

    outside: tuple[float, ...]
    used: tuple[float, ...]
    lost: tuple[float, float, float]
    looked_at: int

    @property
    def worst(self) -> int:
        """The value of an action that is most often outside."""
        return int(np.argmax(self.outside))

    def __str__(self) -> str:
        used = ", ".join(f"{100 * share:.0f} %" for share in self.used[TRANSLATION])
        return (
            f"{100 * self.outside[self.worst]:.1f} % of {self.looked_at} recorded actions are beyond q01 … q99 of the "
            f"teacher's statistics in {ACTION_NAMES[self.worst]}, the worst of six ({100 * EXPECTED:.0f} % are of its "
            f"own data); translations span {used} of its range; said and understood again, 95 of 100 are off by no "
            f"more than {1e3 * self.lost[0]:.2f} mm, {np.degrees(self.lost[1]):.2f}° and {self.lost[2]:.3f} of the "
            "gripper"
        )


def measure(labels: Labels, speech: Speech) -> Fit:
    """Of the action that comes first at each frame looked at."""
    frames = np.unique(np.linspace(0, len(labels) - 1, min(LOOKED_AT, len(labels))).astype(int))
    actions = [labels.at(frame)[:1] for frame in frames]
    starts = [labels.start(frame) for frame in frames]
    pairs = list(zip(actions, starts, strict=True))
    measured = np.concatenate([speech.measured(action, start) for action, start in pairs])[:, :GRIPPER]  # (F, 6)
    meant = np.concatenate([speech.meant(speech.say(action, start), start) for action, start in pairs])  # (F, 7)
    off = np.abs(meant - np.concatenate(actions))
    kinds = np.linalg.norm(off[:, TRANSLATION], axis=1), np.linalg.norm(off[:, ROTATION], axis=1), off[:, GRIPPER]
    low, high = np.quantile(measured, [0.01, 0.99], axis=0)
    return Fit(
        outside=tuple((np.abs(measured) > 1.0 + 1e-6).mean(0).tolist()),
        used=tuple(((high - low) / 2.0).tolist()),
        lost=tuple(float(np.percentile(kind, _OFTEN)) for kind in kinds),
        looked_at=len(frames),
    )
