"""`actdistill bench images` counts what arrives between two real processes."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from actdistill_ros.bench import images


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    images.add_arguments(parser)
    return parser.parse_args(words)


def test_frames_go_from_camera_node_to_a_subscriber_and_the_report_has_its_keys(tmp_path, capsys):
    file = tmp_path / "images.json"
    assert images.run(arguments("--frames", "10", "--fps", "20", "--size", "64x48", "--json", str(file))) == 0
    report = json.loads(file.read_text())
    assert 0 < report["delivered_share"] <= 1 and 0 < report["p50_ms"] <= report["p95_ms"]
    assert {"device", "threads", "versions", "rmw", "default_transports", "load_average"} <= set(report)
    assert report["profile"] == "fastdds_loopback.xml"
    assert "default transports" in capsys.readouterr().out


def test_lost_frames_lower_the_share_and_leave_the_ages_of_the_others():
    delivery = images.summarise(np.array([0.001, 0.002, 0.003, 0.010]), frames=8)
    assert delivery.delivered_share == 0.5 and delivery.p50_ms == 2.5 and delivery.max_ms == 10.0


def test_nothing_delivered_is_a_share_of_zero_without_ages():
    assert images.summarise(np.array([]), frames=8) == images.Delivery(0.0, None, None, None, 0)


@pytest.mark.parametrize("words", [("--size", "640"), ("--size", "0x0"), ("--frames", "0"), ("--fps", "0")])
def test_arguments_that_make_no_sense_are_refused(words):
    with pytest.raises(images.BenchError):
        images.run(arguments(*words))
