"""Limits and timeouts stand in one file, and a wrong one is refused before anything moves."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from actdistill_ros.control import settings
from actdistill_ros.control.modes import Mode
from actdistill_ros.control.settings import DriverSettings, SettingsError
from actdistill_ros.sim import layout

ROOT = Path(__file__).parents[1]


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> Path:
        body = yaml.safe_load((ROOT / settings.FILE).read_text())
        body["driver"] |= changes
        body["driver"] = {key: value for key, value in body["driver"].items() if value is not ...}
        (tmp_path / "arm.yaml").write_text(yaml.safe_dump(body))
        return tmp_path / "arm.yaml"

    return write


def test_the_packages_own_file_is_found_and_valid():
    assert settings.default_file() == ROOT / settings.FILE
    assert settings.load().tick_s == 0.01


def test_an_installed_package_finds_its_file_in_share(tmp_path, monkeypatch):
    module = tmp_path / "lib" / "python3" / "site-packages" / "actdistill_ros" / "control" / "settings.py"
    file = tmp_path / "share" / "actdistill_ros" / settings.FILE
    for path in (module, file):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(settings, "__file__", str(module))
    assert settings.default_file() == file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate_hz": 0}, "rate_hz is 0, expected more than 0"),
        ({"rate_hz": "fast"}, "rate_hz is 'fast', expected a finite number"),
        ({"chunk_timeout_s": float("nan")}, "chunk_timeout_s is nan, expected a finite number"),
        ({"speed_scale": 1.5}, "speed_scale is 1.5, expected above 0 and at most 1"),
        ({"late_ticks": 1.5}, "late_ticks is 1.5, expected a whole number"),
        ({"workspace_x_m": [0.4, 0.1]}, "workspace_x_m is (0.4, 0.1), expected [lower, upper]"),
        ({"workspace_y_m": 0.4}, "workspace_y_m is 0.4, expected [lower, upper]"),
        ({"workspace_top_m": -0.1}, "workspace_top_m -0.1 is not above the table"),
        ({"period_min_s": 2.0}, "period_min_s 2.0 is not below period_max_s"),
        ({"state_hz": 200}, "state_hz 200 is above rate_hz 100"),
        ({"rate_hz": ...}, "lacks rate_hz"),
        ({"speed_scal": 1}, "unknown speed_scal; known are"),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_and_expectation(write, changes, words):
    path = write(**changes)
    with pytest.raises(SettingsError, match=re.escape(words)) as refused:
        settings.load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "is not YAML"), ("[]", "has no section 'driver'"), ("driver: 1", "has no section")]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, words):
    (tmp_path / "arm.yaml").write_text(text)
    with pytest.raises(SettingsError, match=words):
        settings.load(tmp_path / "arm.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.load(tmp_path / "none.yaml")


def test_the_table_of_the_world_is_the_table_that_the_driver_knows():
    assert settings.load().table_z_m == layout.TABLE_Z_M


def test_every_setting_is_explained_in_the_safety_page():
    page = (ROOT / "docs" / "safety.md").read_text()
    missing = [field.name for field in fields(DriverSettings) if f"`{field.name}`" not in page]
    assert not missing


def test_every_mode_is_explained_in_the_safety_page():
    page = (ROOT / "docs" / "safety.md").read_text()
    assert not [mode.name for mode in Mode if f"| {mode.name} |" not in page]
