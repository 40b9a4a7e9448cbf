"""Diagnostics of the arm: one status for the whole, then one for each motor with its rate and the age of its answer."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from actdistill_ros.control.limits import JOINT_NAMES
from actdistill_ros.control.loop import LoopState
from actdistill_ros.control.modes import Mode
from actdistill_ros.nodes.stamps import to_stamp

MOTORS = (*JOINT_NAMES, "gripper")


def diagnostics_message(state: LoopState, name: str, hardware: str, now_s: float, stale_s: float) -> DiagnosticArray:
    """name: of the node; stale_s: age of an answer from which on it is a fault."""
    motors = [_motor(state, i, now_s, stale_s) for i in range(len(MOTORS))]
    statuses = [("arm", *_arm(state, now_s)), *((motor, *rest) for motor, rest in zip(MOTORS, motors))]
    message = DiagnosticArray(
        status=[
            DiagnosticStatus(
                level=level,
                name=f"{name}: {part}",
                message=words,
                hardware_id=hardware,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
            for part, level, words, values in statuses
        ]
    )
    message.header.stamp = to_stamp(now_s)
    return message


def _arm(state: LoopState, now_s: float) -> tuple[bytes, str, dict]:
    arm = state.driver
    level = DiagnosticStatus.OK
    if arm.faults or arm.mode is Mode.DAMPING:
        level = DiagnosticStatus.ERROR
    elif arm.mode in (Mode.HOLD, Mode.ESTOP):
        level = DiagnosticStatus.WARN
    values = {
        "mode": arm.mode.name,
        "source": arm.source,
        "feedback age [s]": f"{now_s - arm.feedback_stamp_s:.3f}",
        "ticks": state.ticks,
        "late ticks": state.late_ticks,
        **{f"fault {i + 1}": fault for i, fault in enumerate(arm.faults)},
    }
    return level, f"{arm.mode.name}: {arm.reason}", values


def _motor(state: LoopState, i: int, now_s: float, stale_s: float) -> tuple[bytes, str, dict]:
    feedback, name = state.feedback, MOTORS[i]
    age_s, rate_hz = now_s - feedback.motor_stamps_s[i], state.answers_hz[i]
    fault = next((text for text in state.driver.faults if text.startswith(f"{name}: ")), "")
    if not fault and age_s > stale_s:
        fault = f"{name}: last answer {age_s:.1f} s ago; check its cable and power"
    joint = i < len(JOINT_NAMES)
    values = {
        "answers [Hz]": f"{rate_hz:.0f}",
        "age [s]": f"{age_s:.3f}",
        "position": f"{feedback.position_rad[i]:.4f} rad" if joint else f"{feedback.gripper:.3f} of its opening",
        **({"velocity [rad/s]": f"{feedback.velocity_rad_s[i]:.3f}"} if joint else {}),
        **({"effort [Nm]": f"{feedback.effort_nm[i]:.2f}"} if joint else {}),
    }
    return DiagnosticStatus.ERROR if fault else DiagnosticStatus.OK, fault or f"answers at {rate_hz:.0f} Hz", values
