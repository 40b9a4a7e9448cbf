"""Declares a node's parameters with what they mean, their unit and their range, so that a wrong value is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node

Value = bool | int | float | str | list[str]


@dataclass(frozen=True)
class Setting:
    """One parameter. low, high: inclusive bounds of a number; changeable: whether it may change while the node runs."""

    name: str
    default: Value
    meaning: str
    low: float | None = None
    high: float | None = None
    changeable: bool = False


def declare(node: Node, *settings: Setting) -> None:
    """Declare all; rclpy then refuses values of another type or outside the range, and changes of a fixed parameter."""
    for setting in settings:
        if not node.has_parameter(setting.name):
            node.declare_parameter(setting.name, setting.default, _descriptor(setting))


def value(node: Node, name: str) -> Value:
    """The value of a declared parameter."""
    return node.get_parameter(name).value


def attempt(change: Callable[[], None]) -> SetParametersResult:
    """What became of a change: refused, with the reason, if it raises ValueError."""
    try:
        change()
    except ValueError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _descriptor(setting: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.meaning, read_only=not setting.changeable)
    if setting.low is not None:
        if isinstance(setting.default, float):
            bounds = FloatingPointRange(from_value=float(setting.low), to_value=float(setting.high), step=0.0)
            descriptor.floating_point_range = [bounds]
        else:
            bounds = IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)
            descriptor.integer_range = [bounds]
    return descriptor
