"""Bad commands never get a bad command out of the driver, and the bench that says so sees one if there is one."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import numpy as np
import pytest
from arm_parts import SETTINGS
from policy_parts import tiny_checkpoint

from actdistill_ros.bench import driver, ticks
from actdistill_ros.bench.fuzz import Findings, Fuzz
from actdistill_ros.contract.contract import ContractError
from actdistill_ros.control.driver import Driver

NOISE = np.random.default_rng(0)


def test_random_and_adversarial_commands_get_no_command_outside_the_limits_out_of_the_driver():
    found = Fuzz(SETTINGS, seed=0).run(1500)
    assert found.violations == []
    assert found.speed <= 1.0 + 1e-6 and found.acceleration <= 1.0 + 1e-6 and found.jerk <= 1.0 + 1e-6
    assert found.clearance_m > 0.0
    # It was no walk in the park: commands of every kind were sent, moved the arm hard, and many were accepted.
    assert min(found.sent.values()) > 10 and found.accepted["chunk"] > 50 and found.accepted["twist"] > 50
    assert found.acceleration > 0.5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda q: q * np.nan, "not finite"),
        (lambda q: q + 10.0, "outside its range"),
        (lambda q: q + NOISE.normal(0.0, 0.001, 6), "jerk is"),
    ],
)
def test_the_fuzz_sees_a_driver_that_lets_something_through(monkeypatch, spoil, words):
    genuine = Driver.tick

    def spoiled(self, feedback):
        tick = genuine(self, feedback)
        if tick.command is not None:
            object.__setattr__(tick.command, "position_rad", spoil(tick.command.position_rad))
        return tick

    monkeypatch.setattr(Driver, "tick", spoiled)
    assert any(words in violation for violation in Fuzz(SETTINGS, seed=0).run(100).violations)


def test_the_fuzz_sees_a_driver_that_raises(monkeypatch):
    monkeypatch.setattr(Driver, "offer", lambda self, chunk: 1 / 0)
    assert any("chunk raised ZeroDivisionError" in words for words in Fuzz(SETTINGS, seed=0).run(30).violations)


def test_lateness_is_what_a_cycle_took_beyond_its_period():
    cycles = np.array([0.005] * 97 + [0.006, 0.0101, 0.0151])
    late = ticks.summarise(cycles, 0.005, False)
    assert late.late_p50_ms == 0.0 and late.late_max_ms == pytest.approx(10.1) and late.missed_ticks == 3


def test_the_loop_is_measured_while_it_moves_an_arm():
    found = ticks.measure(SETTINGS, 100.0, 1.0, None)
    assert found.ticks > 20 and not found.beside_policy


def test_the_report_has_the_keys_that_others_read():
    found = Findings(commands=3, sent=Counter(chunk=3), violations=["x"])
    on_bus = {**driver.NO_BUS, "commands": 3, "violations": ["y"]}
    faults = {**driver.NO_FAULTS, "injected": 2, "safe": 1, "rows": [{"named_ms": float("inf")}]}
    punctual, ordinary = (ticks.Punctuality(9, 0.1, late, 1.0, 2, True, late < 1.0) for late in (0.5, 3.0))
    report = driver.summary(SETTINGS, found, punctual, ordinary, on_bus, faults)
    assert report["ticks"]["real_time"] and report["ticks_ordinary"]["late_p99_ms"] == 3.0
    assert (report["late_p99_ms"], report["missed_ticks"]) == (0.5, 2)
    assert (report["fuzz_commands"], report["fuzz_violations"]) == (3, 2)
    assert (report["faults"]["injected"], report["faults"]["safe"]) == (2, 1)
    written = json.loads(json.dumps(driver._finite(report), allow_nan=False))
    assert written["faults"]["rows"][0]["named_ms"] is None


def parsed(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    driver.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "contract.json").unlink(), "contract.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "copy the checkpoint again"),
        (lambda folder: (folder / "config.json").write_text('{"vision_backbone_id": "x"}'), "is a published model"),
    ],
)
def test_a_checkpoint_that_cannot_compute_is_refused_before_the_fuzz(tmp_path, capfd, damage, says):
    damage(folder := tiny_checkpoint(tmp_path / "policy"))
    with pytest.raises(ContractError, match=says):
        driver.run(parsed("--checkpoint", folder, "--no-bus"))
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_that_computes_is_no_fault(tmp_path):
    ticks.check(tiny_checkpoint(tmp_path / "policy"))


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(driver.BenchError, match="expected at least"):
        driver.run(parsed("--commands", 1))
