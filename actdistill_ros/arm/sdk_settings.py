"""Gains, cycle and timeouts of the vendor SDK and of its guard, read once from config/sdk.yaml."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from actdistill_ros.arm.error import ArmError
from actdistill_ros.arm.frames import KD_MAX, KP_MAX, MODELS

FILE = Path("config") / "sdk.yaml"
SIX = ("kp", "kd", "damping_kd")


@dataclass(frozen=True)
class SdkSettings:
    """The values of config/sdk.yaml; the comments there say what each one does. model: which arm, no key of the
    file."""

    model: str
    cycle_s: float
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    damping_kd: tuple[float, ...]
    gripper_kp: float
    gripper_kd: float
    lead_s: float
    stiffen_s: float
    connect_timeout_s: float
    answer_timeout_s: float
    silence_timeout_s: float
    heartbeat_timeout_s: float
    command_timeout_s: float
    hold_to_damping_s: float
    over_current_s: float
    torque_share: float
    temperature_limit_c: float
    limit_tolerance_rad: float

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> SdkSettings:
        return SdkSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()})


def load(path: Path | None = None, model: str = "X5") -> SdkSettings:
    """The settings in `path`, or in the package's own config/sdk.yaml, for that model of the arm. Raises ArmError."""
    import yaml  # not needed by the processes that get their settings as JSON

    from actdistill_ros.control.settings import share_file

    path = path or share_file(FILE)
    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ArmError(f"{path} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise ArmError(f"{path} holds no settings; start from the package's {FILE}")
    names = {field.name for field in fields(SdkSettings)} - {"model"}
    if missing := sorted(names - body.keys()):
        raise ArmError(f"{path} lacks {', '.join(missing)}")
    if unknown := sorted(body.keys() - names):
        raise ArmError(f"{path} has unknown {', '.join(map(str, unknown))}; known are {', '.join(sorted(names))}")
    try:
        return SdkSettings(
            model=model, **{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
        )
    except ArmError as error:
        raise ArmError(f"{path}: {error}") from None


def _check(settings: SdkSettings) -> None:
    if settings.model not in MODELS:
        raise ArmError(f"model is {settings.model!r}, expected one of {', '.join(MODELS)}")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in SIX:
            top = KP_MAX if field.name == "kp" else KD_MAX
            if not (isinstance(value, tuple) and len(value) == 6 and all(_within(v, top) for v in value)):
                raise ArmError(f"{field.name} is {value!r}, expected six numbers above 0 and at most {top:g}")
        elif field.name != "model" and not _within(value, KP_MAX):
            raise ArmError(f"{field.name} is {value!r}, expected a number above 0 and at most {KP_MAX:g}")


def _within(value: object, top: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0.0 < value <= top
