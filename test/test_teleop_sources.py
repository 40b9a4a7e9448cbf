"""Keyboard, gamepad and serial switch, on real terminals: what they say, and that their end is a stop."""

from __future__ import annotations

import os
import pty
import re
import termios
from pathlib import Path

import numpy as np
import pytest

from actdistill_ros.control.kinematics import forward
from actdistill_ros.control.pose import difference, integrate
from actdistill_ros.teleop.gamepad import Gamepad, Mapping
from actdistill_ros.teleop.keyboard import HELD_S, Keyboard
from actdistill_ros.teleop.leader import LAG_M, PULL_PER_S, Clutch
from actdistill_ros.teleop.serial_switch import SILENT_S, SerialSwitch, frame, parse
from actdistill_ros.teleop.session import AGAIN_S, Session
from actdistill_ros.teleop.source import Intent, SourceError, SourceLost

JOG = np.repeat([0.2, 0.8], 3)


@pytest.fixture
def line():
    """A pseudo-terminal: the end that plays the human or the device, and the path of the other end."""
    master, slave = pty.openpty()
    path = Path(os.ttyname(slave))
    ends = {"master": master, "slave": slave}
    yield ends, path
    for end in ends.values():
        if end is not None:
            os.close(end)


def unplug(ends: dict) -> None:
    os.close(ends["master"])
    ends["master"] = None


class Typist:
    def __init__(self, line) -> None:
        self.ends, path = line
        self.keyboard, self.now_s = Keyboard(path), 100.0

    def type(self, keys: str) -> Intent:
        os.write(self.ends["master"], keys.encode())
        return self.keyboard.read(self.now_s)


@pytest.fixture
def typist(line):
    typist = Typist(line)
    yield typist
    typist.keyboard.close()


def test_a_key_moves_along_its_axis_for_as_long_as_it_is_repeated(typist):
    assert not typist.keyboard.read(typist.now_s).deadman
    intent = typist.type("w")
    assert intent.deadman and intent.motion[0] > 0.0 and not intent.motion[1:].any()
    typist.now_s += HELD_S - 0.01
    assert typist.type("w").deadman
    typist.now_s += HELD_S - 0.01
    assert typist.keyboard.read(typist.now_s).deadman
    typist.now_s += 0.02
    released = typist.keyboard.read(typist.now_s)
    assert not released.deadman and not released.motion.any()


def test_two_keys_add_up_and_opposite_ones_cancel(typist):
    assert (typist.type("wa").motion[:2] > 0.0).all()
    assert not typist.type("sd").deadman


def test_digits_set_the_speed_and_t_the_frame(typist):
    slow, fast = typist.type("1w").motion[0], typist.type("9w").motion[0]
    assert fast == pytest.approx(9 * slow) == 1.0
    assert typist.type("").tool is None
    assert typist.type("t").tool is True
    assert typist.type("t").tool is False


def test_g_and_h_move_the_gripper_and_space_is_the_emergency_stop(typist):
    assert typist.type("g").gripper == 1.0
    assert typist.type("h").gripper == 0.0
    assert typist.type(" ").stop
    assert not typist.type("w").stop


def test_cursor_keys_move_nothing(typist):
    assert not typist.type("\x1b[A").deadman and not typist.type("\x1b[d").deadman


def test_unknown_keys_and_noise_move_nothing(typist):
    assert not typist.type("zq%\x00\x07").deadman


def test_a_terminal_gets_its_settings_back(line):
    ends, path = line
    before = termios.tcgetattr(ends["slave"])
    keyboard = Keyboard(path)
    assert termios.tcgetattr(ends["slave"]) != before
    keyboard.close()
    keyboard.close()
    assert termios.tcgetattr(ends["slave"]) == before


def test_a_terminal_that_closes_is_a_loss(typist):
    unplug(typist.ends)
    with pytest.raises(SourceLost, match="the terminal was closed"):
        typist.keyboard.read(typist.now_s)


@pytest.mark.parametrize(("path", "words"), [("/nowhere", "cannot be opened"), ("/dev/null", "is no terminal")])
def test_a_keyboard_needs_a_terminal(path, words):
    with pytest.raises(SourceError, match=words):
        Keyboard(Path(path))


# -- gamepad
def pad(axes=(0.0,) * 8, *pressed: int) -> Gamepad:
    gamepad = Gamepad()
    gamepad.hear(axes, [int(i in pressed) for i in range(11)], 100.0)
    return gamepad


def test_a_stick_moves_only_under_the_dead_man_button():
    axes = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert not pad(axes).read(100.0).deadman
    intent = pad(axes, 4).read(100.0)
    assert intent.deadman and intent.motion[0] == 1.0 and not intent.motion[1:].any()


def test_a_stick_that_does_not_quite_centre_moves_nothing():
    assert not pad((0.09,) * 8, 4).read(100.0).motion.any()


def test_buttons_stop_open_close_and_change_the_frame():
    assert pad((0.0,) * 8, 1).read(100.0).stop
    assert pad((0.0,) * 8, 3).read(100.0).gripper == 1.0
    assert pad((0.0,) * 8, 0).read(100.0).gripper == 0.0
    assert pad((0.0,) * 8, 5).read(100.0).tool and pad().read(100.0).tool is None


def test_a_gamepad_that_falls_silent_is_a_loss_and_one_that_never_spoke_is_not():
    assert Gamepad().read(100.0) is None
    gamepad = pad((0.0,) * 8, 4)
    with pytest.raises(SourceLost, match="silent for 0.5 s: is joy_node running"):
        gamepad.read(100.5)
    assert gamepad.read(100.6) is None


def test_axes_that_are_no_numbers_or_missing_move_nothing():
    intent = pad((float("nan"),) * 8, 4).read(100.0)
    assert not intent.deadman and not intent.motion.any()
    assert not pad((), 4).read(100.0).motion.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": ("1",) * 6}, "expected six of a sign and a number"),
        ({"axes": ("+1",) * 5}, "expected six"),
        ({"deadman": 1}, "expected five different numbers"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(SourceError, match=words):
        Mapping(**changes)


# -- serial switch
class Box:
    """A switch on a pseudo-terminal."""

    def __init__(self, line) -> None:
        self.ends, path = line
        self.switch, self.now_s = SerialSwitch(str(path), 115200, 100.0), 100.0

    def send(self, data: bytes) -> Intent:
        os.write(self.ends["master"], data)
        return self.switch.read(self.now_s)


@pytest.fixture
def box(line):
    box = Box(line)
    yield box
    box.switch.close()


def test_a_switch_says_dead_man_and_stop(box):
    assert box.send(frame("S,1,0")) == Intent(True)
    assert box.send(frame("S,0,1")) == Intent(False, stop=True)
    assert box.send(frame("S,0,0")) == Intent(False)


def test_a_stop_between_two_reads_is_one_even_if_it_was_let_go(box):
    assert box.send(frame("S,1,0") + frame("S,0,1") + frame("S,1,0")) == Intent(True, stop=True)


def test_a_line_that_comes_in_pieces_counts_when_it_is_whole(box):
    line = frame("S,1,0")
    assert not box.send(line[:4]).deadman
    assert box.send(line[4:]).deadman


def test_the_line_that_the_page_shows_is_one():
    (line,) = re.findall(r"`(\$S\S+)` says", (Path(__file__).parents[1] / "docs" / "teleop.md").read_text())
    assert parse(line.encode()) == Intent(True)


def test_a_leader_arm_says_its_joints_and_its_gripper(box):
    intent = box.send(frame("L,1,0,0.1,1.5,1.2,-1.2,0,0.5,0.25"))
    assert intent.deadman and not intent.stop and intent.gripper == 0.25
    np.testing.assert_array_equal(intent.joints, [0.1, 1.5, 1.2, -1.2, 0.0, 0.5])


@pytest.mark.parametrize(
    "values", ["0,0,0,0,0,0", "0,0,0,0,0,0,2", "0,0,0,0,0,4,0", "0,0,nan,0,0,0,0", "0,0,x,0,0,0,0"]
)
def test_a_leader_arm_that_makes_no_sense_is_noise(values):
    assert parse(frame(f"L,1,0,{values}")) is None


def test_noise_never_presses_the_dead_man(box):
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert not box.send(rng.integers(0, 256, 50, dtype=np.uint8).tobytes()).deadman
    good = bytearray(frame("S,0,0"))
    for i in range(len(good) - 2):
        for bit in range(8):
            bad = bytearray(good)
            bad[i] ^= 1 << bit
            assert parse(bytes(bad)) in (None, Intent(False))


@pytest.mark.parametrize(
    "line", [b"", b"$S,1,0\n", b"$S,1,0*00\n", b"S,1,0*4D\n", frame("S,1"), frame("S,2,0"), frame("X,1,0")]
)
def test_a_line_of_another_form_is_noise(line):
    assert parse(line) is None


def test_an_unplugged_switch_is_a_loss(box):
    box.send(frame("S,1,0"))
    unplug(box.ends)
    with pytest.raises(SourceLost, match="is gone"):
        for _ in range(3):
            box.switch.read(box.now_s)


def test_a_switch_that_says_nothing_valid_is_a_loss(box):
    box.send(frame("S,1,0"))
    box.now_s += SILENT_S + 0.05
    with pytest.raises(SourceLost, match="gave no valid line for 0.3 s"):
        box.send(b"garbage\n")


def test_a_port_that_does_not_exist_is_refused():
    with pytest.raises(SourceError, match="cannot be opened"):
        SerialSwitch("/dev/nowhere", 115200, 0.0)
    with pytest.raises(SourceError, match="no serial port is named"):
        SerialSwitch("", 115200, 0.0)


# -- a session at a device
class Device:
    """A source that says what it is told to; the last device, so that a session can open it again."""

    def __init__(self, loss_is_stop: bool = False) -> None:
        self.loss_is_stop, self.says, self.there = loss_is_stop, Intent(False, np.zeros(6)), True

    def __call__(self, now_s: float) -> Device:
        if not self.there:
            raise SourceError("not there")
        return self

    def read(self, now_s: float) -> Intent:
        if not self.there:
            raise SourceLost("unplugged")
        return self.says

    def close(self) -> None:
        pass


FORWARD = Intent(True, np.array([1.0, 0, 0, 0, 0, 0]), gripper=0.0)


def test_a_session_scales_the_motion_to_the_jog_speed():
    device = Device()
    session = Session(device, JOG, False, 0.0)
    session.scale = 0.5
    session.step(0.0)
    device.says = FORWARD
    output = session.step(0.02)
    assert output.deadman and output.gripper == 0.0 and not output.tool
    np.testing.assert_allclose(output.twist, [0.1, 0, 0, 0, 0, 0])


def test_a_dead_man_that_is_held_when_the_device_comes_up_does_not_count():
    device = Device()
    device.says = FORWARD
    session = Session(device, JOG, False, 0.0)
    output = session.step(0.0)
    assert output.deadman is False and not output.twist.any() and output.gripper is None
    device.says = Intent(False, np.zeros(6))
    session.step(0.02)
    device.says = FORWARD
    assert session.step(0.04).deadman


@pytest.mark.parametrize("loss_is_stop", [False, True])
def test_a_lost_device_is_a_stop_and_must_be_pressed_anew_when_it_is_back(loss_is_stop):
    device = Device(loss_is_stop)
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    device.says, device.there = FORWARD, False
    output = session.step(0.02)
    assert output.deadman is False and output.stop == loss_is_stop and "unplugged" in output.notes[0]
    assert session.step(0.04).deadman is None
    session.stopped()
    device.there = True
    assert "let go of the dead-man once" in session.step(0.02 + AGAIN_S).notes[0]
    assert session.step(0.04 + AGAIN_S).deadman is False


def test_a_stop_is_repeated_until_the_driver_says_yes():
    device = Device()
    device.says = Intent(False, np.zeros(6), stop=True)
    session = Session(device, JOG, False, 0.0)
    asked = [session.step(0.02 * i).stop for i in range(30)]
    assert asked[0] and 5 <= sum(asked) <= 7
    device.says = Intent(False, np.zeros(6))
    assert any(session.step(1.0 + 0.02 * i).stop for i in range(10))
    session.stopped()
    assert not any(session.step(2.0 + 0.02 * i).stop for i in range(10))


def test_a_pressed_stop_overrules_the_dead_man():
    device = Device()
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    device.says = Intent(True, np.ones(6), stop=True)
    output = session.step(0.02)
    assert output.deadman is False and not output.twist.any()


# -- a leader arm
START_Q = np.array([0.0, 1.5, 1.2, -1.2, 0.0, 0.0])


class Follower:
    """An arm that does what the clutch says, 50 times a second."""

    def __init__(self) -> None:
        self.clutch, self.arm = Clutch(), forward(START_Q + [0.5, 0.0, 0.0, 0.2, 0.0, 0.0])

    def step(self, leader_q: np.ndarray, held: bool = True) -> np.ndarray:
        twist = self.clutch.twist(leader_q, held, self.arm)
        self.arm = integrate(self.arm, 0.02 * twist[:3], 0.02 * twist[3:])
        return twist


def test_pressing_the_dead_man_moves_nothing_wherever_the_leader_is():
    np.testing.assert_allclose(Follower().step(START_Q), 0.0, atol=1e-9)


def test_the_arm_repeats_the_leaders_motion_from_where_it_is():
    follower = Follower()
    before, leader_before = follower.arm, forward(START_Q)
    for i in range(200):
        follower.step(START_Q + [0.001 * min(i, 100), 0.0, 0.0, 0.0, 0.0, 0.0])
    move, turn = difference(forward(START_Q + [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]), leader_before)
    np.testing.assert_allclose(follower.arm.position_m - before.position_m, move, atol=1e-4)
    np.testing.assert_allclose(difference(follower.arm, before)[1], turn, atol=1e-3)


def test_a_leader_that_is_let_go_moves_nothing_and_is_taken_up_where_it_is_then():
    follower = Follower()
    follower.step(START_Q)
    assert not follower.step(START_Q + 0.2, held=False).any()
    np.testing.assert_allclose(follower.step(START_Q + 0.2), 0.0, atol=1e-9)


def test_a_leader_that_runs_ahead_slips_so_that_the_arm_stops_soon_after_the_hand():
    follower = Follower()
    follower.step(START_Q)
    twist = follower.step(START_Q + [0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.linalg.norm(twist[:3]) <= PULL_PER_S * LAG_M + 1e-9
    before = follower.arm.position_m
    for _ in range(200):
        follower.step(START_Q + [0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.linalg.norm(follower.arm.position_m - before) < LAG_M


def test_no_leader_moves_an_arm_whose_pose_is_not_known_now():
    device, arm = Device(), forward(START_Q)
    device.says = Intent(False, joints=START_Q)
    session = Session(device, JOG, False, 0.0)
    session.step(0.0)
    session.see(arm, 0.02)
    device.says = Intent(True, joints=START_Q)
    session.step(0.02)
    device.says = Intent(True, joints=START_Q + 0.05)
    assert session.step(0.04).twist.any()
    assert not session.step(0.4).twist.any()
    session.see(None, 0.42)
    assert not session.step(0.42).twist.any()
