"""Which arm: the one place that knows all backends."""

from __future__ import annotations

from pathlib import Path

from actdistill_ros.arm import sdk_settings
from actdistill_ros.arm.backend import ArmBackend, ArmError
from actdistill_ros.arm.can import SocketCan
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.sdk_arm import SdkArm
from actdistill_ros.arm.sim import SimArm
from actdistill_ros.sim.protocol import ARM

HARDWARE = ("sim", "sdk_sim", "real")
WITHOUT_WORLD = (
    "hardware:=sdk_sim runs another model on the emulated bus, with simple joints and no world; hardware:=real "
    "drives it"
)


def make(hardware: str, endpoint: str, interface: str, model: str = "X5") -> ArmBackend:
    """The backend, not connected yet.

    endpoint: folder of the simulated world's and the emulated bus's sockets (sim, sdk_sim). interface: of CAN (sdk_sim,
    real). model: which arm it is. Raises ArmError if a value is missing or unknown.
    """
    if hardware not in HARDWARE:
        raise ArmError(f"parameter hardware is {hardware!r}, expected one of {', '.join(HARDWARE)}")
    if hardware == "real":
        return SdkArm(SocketCan(interface), sdk_settings.load(model=model))
    if not endpoint:
        raise ArmError("parameter sim_endpoint is empty, expected the folder that `sim_world --endpoint` was given")
    folder = Path(endpoint)
    if hardware == "sim":
        if model != ARM:
            raise ArmError(f"model is {model}, but the arm in the simulated world is an {ARM}. {WITHOUT_WORLD}")
        return SimArm(folder)
    return SdkArm(EmulatedCan(interface, folder), sdk_settings.load(model=model), emulated=folder)
