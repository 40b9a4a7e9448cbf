"""Names and formats that the emulated bus and its clients share."""

from __future__ import annotations

import struct

WATCH, CONTROL = ".watch", ".ctl"
"""What follows the interface's name in the names of the sockets."""

RECORD = struct.Struct("=dII8s")
"""One line of the frame log: monotonic time [s], sending process (0: a motor), CAN id with flags, data."""
