"""Over which transport the processes of a graph speak: variables of the ROS middleware."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_FAST_DDS = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")
_REMOTE = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")


BUFFER_BYTES = 2 * 2**20
"""net.core.rmem_max that holds a raw VGA frame of two cameras; below, frames are sent slowly."""


RAISE = "sudo sysctl -w net.core.rmem_max=4194304"


def receive_buffer() -> int:
    """Largest that a process may ask for without privileges [bytes]; 0 if the kernel does not say."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return 0


def variables(
    config: Path, environment: Mapping[str, str] = os.environ, buffer: Callable[[], int] = receive_buffer
) -> dict[str, str]:
    """What a graph adds to the user's environment; config: folder of the profiles.

    Nodes of one machine speak over the loopback interface and are seen by nobody else. A user who asks for the network
    (a discovery range beyond LOCALHOST, static peers, a discovery server) gets it; who brings a profile or another
    middleware, or switches discovery off, keeps that.
    """
    asked = environment.get(RANGE) or "LOCALHOST"
    if environment.get(PROFILE) or (environment.get("RMW_IMPLEMENTATION") or _FAST_DDS[0]) not in _FAST_DDS:
        return {} if environment.get(RANGE) else {RANGE: "LOCALHOST"}
    paced = {"RMW_FASTRTPS_USE_QOS_FROM_XML": "1"}
    if asked == "OFF":
        return {}
    if asked != "LOCALHOST" or any(environment.get(name) for name in _REMOTE):
        return {PROFILE: str(config / "fastdds_network.xml"), **paced}
    # The range LOCALHOST, by either name, makes the middleware add shared memory of its own to the profile's transport.
    small = "" if buffer() >= BUFFER_BYTES else "_small_buffers"
    alone = {"ROS_LOCALHOST_ONLY": "0"} if environment.get("ROS_LOCALHOST_ONLY") == "1" else {}
    return {PROFILE: str(config / f"fastdds_loopback{small}.xml"), **paced, RANGE: "SUBNET", **alone}
