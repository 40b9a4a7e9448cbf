"""Keyboard, gamepad and serial switch, on real terminals: what they say, and that their end is a stop."""

from __future__ import annotations

import os
import pty
import re
import termios
from pathlib import Path

import numpy as np
import pytest

from actdistill_ros.teleop.gamepad import Gamepad, Mapping
from actdistill_ros.teleop.keyboard import HELD_S, Keyboard
from actdistill_ros.teleop.serial_switch import SILENT_S, SerialSwitch, frame, parse
from actdistill_ros.teleop.source import Intent, SourceError, SourceLost
from actdistill_ros.teleop.spacemouse import (
    ABS,
    DROPPED,
    EVENT,
    KEY,
    LEFT,
    MOVED_S,
    QUIET_S,
    REL,
    RIGHT,
    SYN,
    SpaceMouse,
    find,
)

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


class Puck:
    """A SpaceMouse whose events come through a pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.hand = os.open(path, os.O_RDWR)
        self.mouse, self.now_s = SpaceMouse(path), 100.0

    def send(self, *events: tuple[int, int, int]) -> Intent:
        os.write(self.hand, b"".join(EVENT.pack(0, 0, *event) for event in (*events, (SYN, 0, 0))))
        return self.mouse.read(self.now_s)

    def unplug(self) -> None:
        os.close(self.hand)
        self.hand = None


@pytest.fixture
def puck(tmp_path):
    puck = Puck(tmp_path / "event5")
    yield puck
    puck.mouse.close()
    if puck.hand is not None:
        puck.unplug()


def test_a_spacemouse_moves_only_under_its_left_button(puck):
    assert not puck.mouse.read(puck.now_s).deadman
    assert not puck.send((REL, 1, -350)).deadman
    intent = puck.send((KEY, LEFT, 1))
    assert intent.deadman
    assert not puck.send((KEY, LEFT, 0)).deadman


@pytest.mark.parametrize("kind", [REL, ABS])
@pytest.mark.parametrize(
    ("code", "value", "axis", "share"),
    [(1, -350, 0, 1.0), (0, -350, 1, 1.0), (2, -350, 2, 1.0), (4, 350, 3, -1.0), (3, 350, 4, -1.0), (5, 900, 5, -1.0)],
)
def test_each_axis_of_a_spacemouse_has_its_direction_in_the_base_and_no_more_than_full_speed(
    puck, kind, code, value, axis, share
):
    motion = puck.send((kind, code, value)).motion
    assert motion[axis] == pytest.approx(share) and np.count_nonzero(motion) == 1


def test_a_touch_of_a_spacemouse_is_not_a_motion(puck):
    assert not puck.send((ABS, 0, 30), (ABS, 3, -34)).motion.any()
    assert 0.0 < -puck.send((ABS, 0, 40)).motion[1] < 0.05


def test_a_relative_axis_that_is_let_go_stops_and_the_others_go_on(puck):
    puck.send((REL, 0, 350))
    puck.now_s += MOVED_S - 0.01
    assert puck.send((REL, 1, 350)).motion[1] == -1.0
    puck.now_s += 0.02
    motion = puck.mouse.read(puck.now_s).motion
    assert motion[1] == 0.0 and motion[0] == -1.0


def test_an_absolute_axis_holds_until_it_changes_but_not_when_all_is_silent(puck):
    puck.send((ABS, 0, 350))
    puck.now_s += QUIET_S - 0.01
    assert puck.send((ABS, 1, 1)).motion[1] == -1.0
    puck.now_s += QUIET_S + 0.01
    assert not puck.mouse.read(puck.now_s).motion.any()


def test_the_right_button_of_a_spacemouse_closes_and_opens_in_turn(puck):
    assert puck.mouse.read(puck.now_s).gripper is None
    assert puck.send((KEY, RIGHT, 1)).gripper == 0.0
    assert puck.send((KEY, RIGHT, 0)).gripper is None
    assert puck.send((KEY, RIGHT, 1)).gripper == 1.0


def test_events_that_were_lost_let_go_of_the_dead_man(puck):
    puck.send((KEY, LEFT, 1), (ABS, 0, 350))
    intent = puck.send((SYN, DROPPED, 0), (KEY, LEFT, 1), (ABS, 1, 350))
    assert not intent.deadman and not intent.motion.any()
    assert puck.send((KEY, LEFT, 1)).deadman


def test_noise_on_a_spacemouse_never_raises_and_never_exceeds_full_speed(puck):
    rng = np.random.default_rng(0)
    for _ in range(100):
        os.write(puck.hand, rng.integers(0, 256, 240, dtype=np.uint8).tobytes())
        assert (np.abs(puck.mouse.read(puck.now_s).motion) <= 1.0).all()


def test_an_unplugged_spacemouse_is_a_loss(puck):
    puck.send((KEY, LEFT, 1))
    puck.unplug()
    with pytest.raises(SourceLost, match="was it unplugged"):
        puck.mouse.read(puck.now_s)


def test_the_spacemouse_that_is_plugged_in_is_found_and_its_lack_is_told(tmp_path):
    with pytest.raises(SourceError, match="plug it in, or name its device"):
        find(tmp_path)
    for name in ("usb-Logitech_Mouse-event-mouse", "usb-3Dconnexion_SpaceNavigator-mouse"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError):
        find(tmp_path)
    (tmp_path / "usb-3Dconnexion_SpaceNavigator-event-mouse").touch()
    assert find(tmp_path).name == "usb-3Dconnexion_SpaceNavigator-event-mouse"
    with pytest.raises(SourceError, match="cannot be opened"):
        SpaceMouse(tmp_path / "gone")
