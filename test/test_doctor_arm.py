"""`actdistill doctor arm`: what it finds of adapter, bus and motors, and that it moves nothing."""

# ruff: noqa: F811

from __future__ import annotations

import os
import threading

import pytest
from sdk_parts import Bus, bus, l5  # noqa: F401

from actdistill_ros.arm import adapters, can, doctor
from actdistill_ros.arm.can import SocketCan
from actdistill_ros.arm.emulated.link import EmulatedCan
from actdistill_ros.arm.emulated.plant import gripper_readout
from actdistill_ros.arm.frames import BRAKE


def look(bus: Bus, motors: bool = True, model: str | None = None) -> dict[str, doctor.Finding]:
    found = list(doctor.examine(EmulatedCan("can0", bus.folder), model or bus.model, motors))
    return {finding.name: finding for finding in found}


def wrong(found: dict[str, doctor.Finding]) -> dict[str, str]:
    return {name: finding.text for name, finding in found.items() if not finding.ok}


@pytest.mark.parametrize("made", ["bus", "l5"])
def test_a_healthy_arm_is_read_and_nothing_moves(request, made):
    bus = request.getfixturevalue(made)
    before = bus.real()
    found = look(bus)
    assert wrong(found) == {}
    assert "88 mm open" in found["gripper"].text and "32 °C" in found["joint2"].text
    assert all(command.kp == 0.0 and abs(command.torque_nm) < 0.02 for _, command in bus.commands())
    assert {frame.data for frame in bus.frames() if frame.pid} == {BRAKE}
    assert all(abs(bus.real()[name][0] - before[name][0]) < 0.1 for name in ("joint5", "joint6", "gripper"))


def test_motors_are_asked_only_if_wanted(bus):
    assert "not asked" in look(bus, motors=False)["motors"].text
    assert not [frame for frame in bus.frames() if frame.pid]


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ({"up": False}, "interface", 'at every plug-in: echo \'SUBSYSTEM=="net"'),
        ({"motor": "joint5", "mute": True}, "joint5", "motor 6 does not answer"),
        ({"motor": "joint4", "fault": 9}, "joint4", "reports under-voltage"),
        ({"motor": "joint6", "temperature_c": 90.0}, "joint6", "is too hot, at most 85 °C"),
        ({"motor": "gripper", "position_rad": gripper_readout(1.2)}, "gripper", "set its zero again; at 106 mm open"),
        ({"motor": "joint5", "position_rad": 1.9}, "joint5", "move it inside by hand"),
        ({"motor": "gripper", "fault": 1}, "gripper", "switch the arm's supply off and on"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(bus, fault, name, words):
    bus.inject(**fault)
    assert words in wrong(look(bus))[name]


@pytest.mark.parametrize("told", ["X5", "L5"])
def test_the_other_model_is_recognised(request, told):
    bus = request.getfixturevalue("l5" if told == "X5" else "bus")
    found = wrong(look(bus, model=told))
    assert {frame.data for frame in bus.frames() if frame.pid} == {BRAKE}  # which is the same to both kinds of motors
    assert (
        f"no {told}; for an {bus.model}, ask with --model {bus.model} and start with model:={bus.model}"
        in found["model"]
    )


def test_a_bus_in_use_is_left_alone(bus):
    bus.arm().connect()
    assert "is used already by" in wrong(look(bus))["bus"]


class Adapter:
    """An SLCAN adapter on a pseudo-terminal."""

    def __init__(self, answer: bytes) -> None:
        self._master, self._slave = os.openpty()
        self.path = os.ttyname(self._slave)
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes) -> None:
        try:
            while b"V" not in os.read(self._master, 64):
                pass
            os.write(self._master, answer)
        except OSError:
            return

    def close(self) -> None:
        os.close(self._slave)
        os.close(self._master)


@pytest.mark.parametrize(
    ("answer", "version"), [(b"V1013\r", "V1013"), (b"\x07V2\r", ""), (b"hello\r\n", ""), (b"", "")]
)
def test_a_serial_adapter_is_told_from_other_things_on_serial_ports(answer, version):
    adapter = Adapter(answer)
    assert adapters.slcan_version(adapter.path, 0.3 if version else 0.1) == version
    adapter.close()


def test_a_serial_adapter_without_interface_gets_the_command_that_makes_one(monkeypatch, tmp_path):
    monkeypatch.setattr(can, "NETWORK", tmp_path)
    adapter = Adapter(b"V1013\r")
    port = adapters.Port(adapter.path, "16d0", "117e")
    found = list(doctor.examine(SocketCan("can0"), ids=lambda: {("16d0", "117e")}, ports=lambda: [port]))
    assert f"sudo slcand -o -c -s8 {adapter.path} can0 && sudo ip link set can0 up" in found[-1].text
    adapter.close()


@pytest.mark.parametrize(
    ("ids", "words"),
    [({("1d50", "606f")}, "sudo modprobe gs_usb"), ({("046d", "c52b")}, "no CAN adapter is plugged in")],
)
def test_a_machine_without_interface_is_told_why(monkeypatch, tmp_path, ids, words):
    monkeypatch.setattr(can, "NETWORK", tmp_path)
    found = list(doctor.examine(SocketCan("can0"), ids=lambda: ids, ports=list))
    assert words in found[-1].text and not found[-1].ok


def test_usb_ids_are_read_from_the_kernel(tmp_path):
    (tmp_path / "1-2").mkdir()
    (tmp_path / "1-2" / "idVendor").write_text("1d50\n")
    (tmp_path / "1-2" / "idProduct").write_text("606f\n")
    assert adapters.usb_ids(tmp_path) == {("1d50", "606f")}


def test_a_network_card_is_refused_and_no_adapter_is_looked_for():
    found = list(doctor.examine(SocketCan("eth0")))
    assert "eth0 is a network card" in found[-1].text and found[-1].name == "interface"
