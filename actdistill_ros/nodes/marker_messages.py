"""Markers for RViz: predicted and executed TCP path, workspace, and the arm's state as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from actdistill_ros.nodes.arm_messages import BASE
from actdistill_ros.nodes.stamps import to_stamp

_PREDICTED, _EXECUTED = (1.0, 0.6, 0.2, 1.0), (0.3, 0.8, 0.5, 0.8)
_BOX, _TEXT = (0.4, 0.6, 1.0, 0.08), (1.0, 1.0, 1.0, 1.0)


def markers(
    now_s: float,
    predicted_m: np.ndarray | None,
    executed_m: Sequence[np.ndarray],
    workspace_m: tuple[np.ndarray, np.ndarray],
    text: str,
) -> MarkerArray:
    """predicted_m: (K + 1, 3); executed_m: (3,) each; workspace_m: lower and upper corner; all in `base_link`."""
    low, high = workspace_m
    box = _marker(now_s, "workspace", Marker.CUBE, _BOX, high - low)
    box.pose.position = _point((low + high) / 2)
    words = _marker(now_s, "state", Marker.TEXT_VIEW_FACING, _TEXT, (0.0, 0.0, 0.03))
    words.pose.position, words.text = Point(x=0.0, y=0.0, z=0.45), text
    return MarkerArray(
        markers=[
            _line(now_s, "predicted", predicted_m if predicted_m is not None else (), _PREDICTED, 0.004),
            _line(now_s, "executed", executed_m, _EXECUTED, 0.002),
            box,
            words,
        ]
    )


def _line(now_s: float, name: str, points: Sequence[np.ndarray], colour, width_m: float) -> Marker:
    marker = _marker(now_s, name, Marker.LINE_STRIP, colour, (width_m, 0.0, 0.0))
    marker.points = [_point(point) for point in points]
    if len(marker.points) < 2:
        # RViz complains about a line of one point; and the line of an earlier task must go.
        marker.action, marker.points = Marker.DELETE, []
    return marker


def _marker(now_s: float, name: str, kind: int, colour, scale) -> Marker:
    r, g, b, a = colour
    x, y, z = (float(value) for value in scale)
    marker = Marker(
        ns=name, type=kind, action=Marker.ADD, color=ColorRGBA(r=r, g=g, b=b, a=a), scale=Vector3(x=x, y=y, z=z)
    )
    marker.header.frame_id, marker.header.stamp = BASE, to_stamp(now_s)
    marker.pose.orientation.w = 1.0
    return marker


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)
