"""Which arm: the one place that knows all backends."""

from __future__ import annotations

from pathlib import Path

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.backend import ArmBackend, ArmError
from actdistill_ros.arm.can import SocketCan
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.sdk_arm import SdkArm
from actdistill_ros.arm.sdk_settings import SdkSettings
from actdistill_ros.arm.sim import SimArm

HARDWARE = ("sim", "sdk_sim", "real")


def make(hardware: str, endpoint: str, interface: str) -> ArmBackend:
    """The backend, not connected yet.

    endpoint: folder of the simulated world's and the emulated bus's sockets (sim, sdk_sim). interface: of CAN (sdk_sim,
    real). Raises ArmError if a value is missing or unknown.
    """
    if hardware not in HARDWARE:
        raise ArmError(f"parameter hardware is {hardware!r}, expected one of {', '.join(HARDWARE)}")
    if hardware == "real":
        return SdkArm(SocketCan(interface), of_this_arm(sdk_settings.load()))
    if not endpoint:
        raise ArmError("parameter sim_endpoint is empty, expected the folder that `sim_world --endpoint` was given")
    folder = Path(endpoint)
    if hardware == "sim":
        return SimArm(folder)
    return SdkArm(EmulatedCan(interface, folder), of_this_arm(sdk_settings.load()), emulated=folder)


def of_this_arm(settings: SdkSettings) -> SdkSettings:
    """Raises ArmError for an arm whose links are not those of `control.kinematics`: it would be led astray."""
    if settings.model != "X5":
        raise ArmError(
            f"config/sdk.yaml says model {settings.model}; kinematics, limits and collision shapes of the driver are "
            "those of the X5, so it drives nothing else. Set model: X5 if that is what hangs on the bus."
        )
    return settings
