"""An emulated bus in a process of its own, for tests and benchmarks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.emulated.link import EmulatedCan, Record, ask, frames
from actdistill_ros.arm.frames import MODELS, Command, decode_command
from actdistill_ros.arm.sdk_arm import SdkArm
from actdistill_ros.arm.sdk_settings import SdkSettings


class BusProcess:
    """An arm of seven simple joints, or the simulated world's, on can0 in `folder`."""

    def __init__(
        self,
        folder: Path,
        model: str = "X5",
        start_rad: Sequence[float] | None = None,
        world: Path | None = None,
    ) -> None:
        """start_rad: (6,) where the simple joints rest. world: folder of a running `sim_world`.

        Raises ArmError if the process does not come up.
        """
        self.folder, self.model = folder, model
        self.motors = {motor.id: motor for motor in MODELS[model]}
        command = [sys.executable, "-m", "actdistill_ros.arm.emulated.bus", "--folder", str(folder), "--model", model]
        command += ["--start=" + ",".join(str(value) for value in start_rad)] if start_rad is not None else []
        command += ["--world", str(world)] if world is not None else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while (line := self._process.stdout.readline()).strip() != "ready":
            if not line:
                raise ArmError(f"{' '.join(command)} did not start; run it by hand to see why")

    def arm(self, settings: SdkSettings) -> SdkArm:
        """The arm as the driver reaches it, not connected yet."""
        return SdkArm(EmulatedCan("can0", self.folder), settings, emulated=self.folder)

    def inject(self, **fault) -> None:
        """A fault, see `Bus._inject` and `Motors.inject`."""
        ask(self.folder, op="inject", **fault)

    def frames(self, since_s: float = 0.0) -> list[Record]:
        """What was on the bus since then; whoever asks for much of it keeps the motors from answering meanwhile."""
        return frames(self.folder, self.folder / "log", since_s)

    def real(self) -> dict[str, list[float]]:
        """Position, velocity and torque of every motor as they really are."""
        return ask(self.folder, op="motors")["motors"]

    def commands(self) -> list[tuple[Record, Command]]:
        """Every command for position, torque or damping that was on the bus."""
        found = []
        for record in self.frames():
            if record.pid and record.id in self.motors:
                command = decode_command(self.motors[record.id], record.data)
                found += [(record, command)] if command else []
        return found

    def last_commands(self) -> dict[int, Command]:
        """What each motor was told last."""
        last = ask(self.folder, op="last")["last"]
        found = {
            number: decode_command(motor, bytes.fromhex(last[str(number)]))
            for number, motor in self.motors.items()
            if str(number) in last
        }
        return {number: command for number, command in found.items() if command}

    def damped(self) -> bool:
        """Whether the last frame to every motor brakes and asks for no position."""
        last = self.last_commands()
        return len(last) == 7 and all(command.kp == 0.0 and command.kd > 0.0 for command in last.values())

    def stiff(self) -> bool:
        """Whether the last frame to every joint asks for a position."""
        last = self.last_commands()
        return len(last) == 7 and all(command.kp > 10.0 for number, command in last.items() if number != 8)

    def unplug(self) -> None:
        """As an adapter that is pulled: every socket on it ends."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(5)
        self._process.stdout.close()
