"""Limits, rates, timeouts and workspace of the driver, read once from config/arm.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import yaml

from actdistill_ros.control.arm_models import MODELS, ArmModel
from actdistill_ros.control.limits import JOINT_VELOCITY_MAX

FILE = Path("config") / "arm.yaml"
SECTION = "driver"


class SettingsError(ValueError):
    """A configuration that the driver cannot run with; the text names file, key, value and what was expected."""


@dataclass(frozen=True)
class DriverSettings:
    """Section `driver` of config/arm.yaml; the comments there say what each value does. model: which arm, no key of the
    file."""

    rate_hz: float
    state_hz: float
    speed_scale: float
    chunk_timeout_s: float
    max_chunk_age_s: float
    clock_skew_s: float
    feedback_timeout_s: float
    hold_to_damping_s: float
    policy_hold_to_damping_s: float
    period_min_s: float
    period_max_s: float
    actions_max: int
    translation_limit_m: float
    rotation_limit_rad: float
    gripper_tolerance: float
    workspace_x_m: tuple[float, float]
    workspace_y_m: tuple[float, float]
    workspace_top_m: float
    table_z_m: float
    table_clearance_m: float
    ik_position_tolerance_m: float
    ik_rotation_tolerance_rad: float
    joint_jump_limit_rad: float
    joint_speed_share: float
    tracking_limit_rad: float
    late_ticks: int
    start_tolerance_rad: float
    joint_acceleration_limit_rad_s2: float
    joint_jerk_limit_rad_s3: float
    tcp_speed_limit_m_s: float
    tcp_turn_limit_rad_s: float
    tcp_acceleration_limit_m_s2: float
    tcp_jerk_limit_m_s3: float
    self_clearance_m: float
    singularity_slow_m: float
    singularity_stop_m: float
    teleop_timeout_s: float
    teleop_hold_to_damping_s: float
    jog_speed_m_s: float
    jog_turn_rad_s: float
    jog_acceleration_m_s2: float
    jog_turn_acceleration_rad_s2: float
    jog_jerk_m_s3: float
    jog_turn_jerk_rad_s3: float
    border_slowdown_s: float
    trajectory_points_max: int
    trajectory_speed_share: float
    trajectory_tolerance_rad: float
    model: str = "X5"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def arm(self) -> ArmModel:
        return MODELS[self.model]

    @property
    def tick_s(self) -> float:
        return 1.0 / self.rate_hz

    @property
    def workspace_min_m(self) -> np.ndarray:
        """(3,) lower corner of the box that the TCP stays in, in `base_link` [m]; its bottom follows the table."""
        return np.array([self.workspace_x_m[0], self.workspace_y_m[0], self.table_z_m + self.table_clearance_m])

    @property
    def workspace_max_m(self) -> np.ndarray:
        """(3,) upper corner of the box that the TCP stays in, in `base_link` [m]."""
        return np.array([self.workspace_x_m[1], self.workspace_y_m[1], self.workspace_top_m])

    @property
    def joint_speed_limit(self) -> np.ndarray:
        """(6,) fastest joint motion that a command may ask for [rad/s]."""
        return JOINT_VELOCITY_MAX * self.joint_speed_share

    @property
    def trajectory_speed_limit(self) -> np.ndarray:
        """(6,) fastest joint motion on a trajectory of a planning tool [rad/s]."""
        return JOINT_VELOCITY_MAX * self.trajectory_speed_share


SHARES = ("speed_scale", "joint_speed_share", "trajectory_speed_share")
MAY_BE_ZERO = ("clock_skew_s", "gripper_tolerance", "table_clearance_m", "start_tolerance_rad", "self_clearance_m")
SIGNED = ("workspace_top_m", "table_z_m")
INTEGERS = ("actions_max", "late_ticks", "trajectory_points_max")
RANGES = ("workspace_x_m", "workspace_y_m")


def load(path: Path | None = None, model: str = "X5") -> DriverSettings:
    """The settings in `path`, or in the package's own config/arm.yaml, for that model of the arm.

    Raises SettingsError if the file is missing, is no YAML, lacks a key, has an unknown one or a value out of range.
    """
    path = path or default_file()
    try:
        body = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    section = body.get(SECTION) if isinstance(body, dict) else None
    if not isinstance(section, dict):
        raise SettingsError(f"{path} has no section {SECTION!r}; start from the package's {FILE}")
    names = {field.name for field in fields(DriverSettings)} - {"model"}
    if missing := sorted(names - section.keys()):
        raise SettingsError(f"{path}: section {SECTION!r} lacks {', '.join(missing)}")
    if unknown := sorted(section.keys() - names):
        raise SettingsError(
            f"{path}: section {SECTION!r} has unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}"
        )
    try:
        return DriverSettings(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}, model=model
        )
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def default_file() -> Path:
    return share_file(FILE)


def share_file(name: Path) -> Path:
    """A file of the package beside its modules: in the source tree, or in the share folder of an installed one.

    Raises SettingsError if there is none.
    """
    for folder in Path(__file__).resolve().parents:
        for candidate in (folder / name, folder / "share" / "actdistill_ros" / name):
            if candidate.is_file():
                return candidate
    raise SettingsError(
        f"no {name} above {Path(__file__).parent}: install the package with colcon or run from its source tree"
    )


def _check(settings: DriverSettings) -> None:
    if settings.model not in MODELS:
        raise SettingsError(f"model is {settings.model!r}, expected one of {', '.join(MODELS)}")
    for field in fields(settings):
        if field.name != "model":
            _check_value(field.name, getattr(settings, field.name))
    if settings.period_min_s >= settings.period_max_s:
        raise SettingsError(f"period_min_s {settings.period_min_s} is not below period_max_s {settings.period_max_s}")
    if settings.state_hz > settings.rate_hz:
        raise SettingsError(f"state_hz {settings.state_hz} is above rate_hz {settings.rate_hz}")
    if settings.workspace_top_m <= settings.table_z_m + settings.table_clearance_m:
        raise SettingsError(
            f"workspace_top_m {settings.workspace_top_m} is not above the table at {settings.table_z_m} m "
            f"with {settings.table_clearance_m} m clearance"
        )
    if settings.singularity_stop_m >= settings.singularity_slow_m:
        raise SettingsError(
            f"singularity_stop_m {settings.singularity_stop_m} is not below singularity_slow_m "
            f"{settings.singularity_slow_m}"
        )
    if settings.jog_speed_m_s > settings.tcp_speed_limit_m_s or settings.jog_turn_rad_s > settings.tcp_turn_limit_rad_s:
        raise SettingsError(
            f"jogging at {settings.jog_speed_m_s} m/s and {settings.jog_turn_rad_s} rad/s is above "
            f"tcp_speed_limit_m_s {settings.tcp_speed_limit_m_s} or tcp_turn_limit_rad_s "
            f"{settings.tcp_turn_limit_rad_s}"
        )


def _check_value(name: str, value: object) -> None:
    if name in RANGES:
        if not (
            isinstance(value, tuple) and len(value) == 2 and all(_finite(v) for v in value) and value[0] < value[1]
        ):
            raise SettingsError(f"{name} is {value!r}, expected [lower, upper] in metres")
    elif not _finite(value) or (name in INTEGERS and not isinstance(value, int)):
        raise SettingsError(f"{name} is {value!r}, expected {'a whole' if name in INTEGERS else 'a finite'} number")
    elif name in SHARES and not 0.0 < value <= 1.0:
        raise SettingsError(f"{name} is {value}, expected above 0 and at most 1")
    elif name not in SIGNED and (value < 0 or (value == 0 and name not in MAY_BE_ZERO)):
        raise SettingsError(f"{name} is {value}, expected {'0 or more' if name in MAY_BE_ZERO else 'more than 0'}")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
