"""The arms that the driver knows: links, shape, home and robot description of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actdistill_ros.control import kinematics
from actdistill_ros.control.collision import CAPSULES, Body
from actdistill_ros.control.kinematics import Chain


@dataclass(frozen=True, eq=False)
class ArmModel:
    """Joint limits, top speeds and torques are the same for all of them and stand in `limits.py`.

    home_rad: (6,) gripper down, the TCP 0.25 m before the base and 0.10 m above its foot. urdf: in the share folder.
    """

    name: str
    chain: Chain
    body: Body
    home_rad: np.ndarray
    urdf: Path


def _model(name: str, chain: Chain, home_rad: list[float]) -> ArmModel:
    return ArmModel(name, chain, Body(chain, CAPSULES), np.array(home_rad), Path("urdf") / f"{name.lower()}.urdf")


X5 = _model("X5", kinematics.X5, [0.0, 1.494, 1.172, -1.248, 0.0, 0.0])
L5 = _model("L5", kinematics.L5, [0.0, 1.488, 1.189, -1.2715, 0.0, 0.0])
MODELS = {model.name: model for model in (X5, L5)}
