"""Which kind of arm is on the bus, asked before a driver or SDK speaks to it in the wrong protocol."""

from __future__ import annotations

import select
import socket
import time

from actdistill_ros.arm import sdk_wire as wire
from actdistill_ros.arm.bus_monitor import BusMonitor
from actdistill_ros.arm.damper import hear
from actdistill_ros.arm.frames import BRAKE, FRAME
from actdistill_ros.arm.sdk_settings import SdkSettings

ANSWER_S = 0.05


def probe(listener: socket.socket, settings: SdkSettings) -> str:
    """Asks the first joint, whose kind differs between the models, with a frame that brakes in every protocol.

    Why the arm is another model than `settings` say, in words; empty if it is none or nobody answers. Raises OSError.
    """
    monitor = BusMonitor(settings)
    wire.give(listener, FRAME.pack(monitor.motors[0].id, 8, BRAKE))
    until = time.monotonic() + ANSWER_S
    while (left := until - time.monotonic()) > 0.0 and not monitor.other_model and not monitor.tracks[0].answer:
        select.select([listener], [], [], left)
        if not hear(listener, monitor):
            break
    return monitor.other_model
