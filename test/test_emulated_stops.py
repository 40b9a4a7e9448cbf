"""What the emulated gripper reads where the world's fingers give way."""

from __future__ import annotations

import threading
from multiprocessing.connection import Listener

import pytest

from actdistill_ros.arm.emulated.plant import OPEN_READOUT_RAD, WorldPlant
from actdistill_ros.sim.protocol import FEEDBACK, MOTORS, endpoint


@pytest.mark.parametrize(("opening", "read"), [(1.057, 1.0), (0.5, 0.5), (-0.02, 0.0)])
def test_a_gripper_pressed_into_its_stop_reads_the_stop(tmp_path, opening, read):
    answer = FEEDBACK.pack(*[0.0] * 19, opening, *[0] * 7)

    def world() -> None:
        with Listener(endpoint(tmp_path, MOTORS), family="AF_UNIX") as listener:
            ready.set()
            with listener.accept() as motors:
                motors.recv_bytes()
                motors.send_bytes(answer)
                motors.poll(5.0)

    ready = threading.Event()
    thread = threading.Thread(target=world, daemon=True)
    thread.start()
    assert ready.wait(5.0)
    plant = WorldPlant("X5", tmp_path)
    assert plant.look(6, 0.0)[0] == pytest.approx(read * OPEN_READOUT_RAD)
