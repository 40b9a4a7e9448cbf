"""Time at the edge: ROS stamps to float seconds since the epoch and back, refusing what cannot be a capture time."""

from __future__ import annotations

from builtin_interfaces.msg import Time

CLOCK_SKEW_S = 0.05
"""How far ahead a stamp may be before it counts as one of the future: clocks of one machine agree far better."""


def to_stamp(seconds: float) -> Time:
    """Seconds since the epoch to a message stamp. Raises ValueError if negative or beyond a stamp's range."""
    nanoseconds = round(seconds * 1e9)
    if not 0 <= nanoseconds < 2**31 * 1_000_000_000:
        raise ValueError(f"{seconds} s since the epoch does not fit a ROS stamp")
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def to_seconds(stamp: Time) -> float:
    """Message stamp to seconds since the epoch (exact to 0.3 µs)."""
    return stamp.sec + stamp.nanosec * 1e-9


def capture_seconds(stamp: Time, now_s: float, what: str) -> float:
    """The stamp as a capture time [s]. Raises ValueError if it is zero or in the future; `what` names its owner."""
    seconds = to_seconds(stamp)
    if seconds == 0.0:
        raise ValueError(f"{what} has stamp zero, expected its capture time: make its publisher fill header.stamp")
    if seconds > now_s + CLOCK_SKEW_S:
        raise ValueError(
            f"{what} is stamped {seconds - now_s:.3f} s in the future: use one clock for all machines (chrony, ptp)"
        )
    return seconds
