"""The bench that compares the driver's inverse kinematics with the vendor SDK's solver."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from arm_parts import SETTINGS

from actdistill_ros.bench import ik
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.arm_models import X5
from actdistill_ros.control.limits import JOINT_MAX, JOINT_MIN
from actdistill_ros.control.pose import integrate


@pytest.fixture(scope="module")
def vendor():
    return ik.Vendor(X5)


def test_a_pose_is_told_to_the_sdk_as_the_sdk_tells_it(vendor):
    random = np.random.default_rng(0).uniform(JOINT_MIN, JOINT_MAX, (50, 6))
    straight_down = np.array([0.0, 1.494, 1.172, -1.248, 0.0, 0.0])
    for q in (*random, straight_down):
        theirs = vendor._solver.forward_kinematics(q)
        again = ik.pose_6d(X5.chain.forward(q))
        np.testing.assert_allclose(again[:3], theirs[:3], atol=1e-9)
        np.testing.assert_allclose(_rotation(again), _rotation(theirs), atol=1e-6)


def test_the_sdk_stands_still_where_the_driver_turns_by_a_milliradian(vendor):
    start = X5.chain.forward(X5.home_rad)
    target = integrate(start, np.zeros(3), np.array([0.0, 0.0, 0.001]))
    assert np.array_equal(vendor.once(target, X5.home_rad), X5.home_rad)
    ours = ik._ours(SETTINGS)(target, X5.home_rad)
    assert ik.difference(target, X5.chain.forward(ours))[1] == pytest.approx(np.zeros(3), abs=1e-6)


def test_an_answer_outside_the_limits_is_none_and_polish_never_makes_one_worse(vendor):
    solve, random = ik._guarded(X5.chain, vendor.once), np.random.default_rng(1)
    for q in random.uniform(JOINT_MIN, JOINT_MAX, (100, 6)):
        target = X5.chain.forward(q)
        plain, guarded = vendor.once(target, X5.home_rad), solve(target, X5.home_rad)
        if guarded is not None:
            assert ik.inside(guarded) and _missed(target, guarded) <= _missed(target, plain) + 1e-12
        elif plain is not None:
            assert not ik.inside(ik.wrapped(plain))


def test_the_bench_writes_what_it_measured_and_the_driver_misses_no_target_of_a_way(tmp_path, capfd):
    parser = argparse.ArgumentParser()
    ik.add_arguments(parser)
    assert (
        ik.run(parser.parse_args(["--poses", "20", "--ways", "2", "--seed", "2", "--json", str(tmp_path / "ik.json")]))
        == 0
    )
    report = json.loads((tmp_path / "ik.json").read_text())
    assert {"model", "seed", "poses", "ways", "device", "threads", "versions", *ik.TASKS} <= report.keys()
    for task in ("ticks", "actions", "singular", "turns"):
        driver = report[task]["driver"]
        assert driver["success"] == 1.0 and driver["outside_limits"] == driver["jump_rad"]["over"] == 0
    assert report["turns"]["SDK"]["rotation_urad"]["p50"] > 1000.0 > report["turns"]["driver"]["rotation_urad"]["p99"]
    assert report["far"]["driver, 20 seeds"]["success"] > 0.9
    assert "driver, 20 seeds" in capfd.readouterr().out


def test_a_bench_of_nothing_is_refused():
    parser = argparse.ArgumentParser()
    ik.add_arguments(parser)
    with pytest.raises(ik.BenchError, match="expected at least 1 pose and way"):
        ik.run(parser.parse_args(["--ways", "0"]))


def _rotation(pose_6d: np.ndarray) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in zip(np.eye(3)[::-1], pose_6d[:2:-1]):
        rotation = rotation @ ik.from_rotation_vector(angle * axis)
    return rotation


def _missed(target: ArmPose, q: np.ndarray) -> float:
    return float(np.linalg.norm(np.concatenate(ik.difference(target, X5.chain.forward(q)))))
