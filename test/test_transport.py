"""The transport of a graph: loopback alone unless the network is asked for, and nothing that a killed process leaves
locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from actdistill_ros import bringup, doctor
from actdistill_ros.transport import PROFILE, RAISE, RANGE, variables

CONFIG = bringup.share() / "config"
LOOPBACK, SMALL, NETWORK = (
    CONFIG / f"fastdds_{name}.xml" for name in ("loopback", "loopback_small_buffers", "network")
)
LARGE, STOCK = 4_194_304, 212_992
"""net.core.rmem_max where somebody raised it, and as Linux comes."""
DOMAIN = 1 + os.getpid() % 100
WAIT_S = 30.0
NODE = """
import rclpy, sys
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("peer")
mine = node.create_publisher(String, "said", 10)
node.create_subscription(String, "said", lambda message: print(message.data, flush=True), 10)
node.create_timer(0.05, lambda: mine.publish(String(data=sys.argv[1])))
rclpy.spin(node)
"""


def clean() -> dict[str, str]:
    """This process's environment without what concerns the middleware."""
    return {name: text for name, text in os.environ.items() if name not in variables(CONFIG, {})}


class Peer:
    """A process that says its word on a topic, and prints what it hears there."""

    def __init__(self, word: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, word],
            env={**clean(), "ROS_DOMAIN_ID": str(DOMAIN), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def hears(self, word: str) -> bool:
        """Whether the word comes; reads until then, and the test's own time limit ends a silence."""
        signal.alarm(round(WAIT_S))
        try:
            return any(line.strip() == word for line in self.process.stdout)
        finally:
            signal.alarm(0)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start():
    """Starts peers, and ends them after the test; a silence of WAIT_S fails it."""
    peers: list[Peer] = []

    def too_long(*_) -> None:
        raise TimeoutError(f"nothing was heard for {WAIT_S:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    yield lambda word, environment: peers.append(Peer(word, environment)) or peers[-1]
    signal.signal(signal.SIGALRM, before)
    for peer in peers:
        peer.end()


def sockets(pid: int) -> set[str]:
    """Local addresses of the process's UDP sockets that wait for datagrams of others; hexadecimal, as the kernel has
    them."""
    targets = [_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {target[8:-1] for target in targets if target.startswith("socket:")}
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[9] in inodes}


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return ""


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("user", [{}, {RANGE: "LOCALHOST"}, {"ROS_LOCALHOST_ONLY": "1"}])
def test_a_graph_speaks_over_the_loopback_interface_unless_told_otherwise(user):
    found = variables(CONFIG, user, lambda: LARGE)
    assert found[PROFILE] == str(LOOPBACK) and found[RANGE] == "SUBNET"
    assert {**user, **found}.get("ROS_LOCALHOST_ONLY", "0") == "0"


@pytest.mark.parametrize("user", [{RANGE: "SUBNET"}, {"ROS_STATIC_PEERS": "10.0.0.2"}, {"ROS_DISCOVERY_SERVER": ";a"}])
def test_a_user_who_asks_for_the_network_gets_it_over_the_same_transport(user):
    found = variables(CONFIG, user)
    assert found[PROFILE] == str(NETWORK) and RANGE not in found


def test_what_the_user_has_set_up_is_kept_and_stays_on_this_machine():
    for user in ({PROFILE: "/mine.xml"}, {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}):
        assert variables(CONFIG, user) == {RANGE: "LOCALHOST"}
        assert variables(CONFIG, {**user, RANGE: "SUBNET"}) == {}
    assert variables(CONFIG, {RANGE: "OFF"}) == {}


def test_where_sockets_hold_little_frames_are_sent_more_slowly():
    assert variables(CONFIG, {}, lambda: STOCK)[PROFILE] == str(SMALL)


def test_doctor_says_how_to_mend_slow_frames_where_they_are_slow(monkeypatch):
    for name in variables(CONFIG, {}):
        monkeypatch.delenv(name)
    assert RAISE in doctor.between(lambda: STOCK) and SMALL.name in doctor.between(lambda: STOCK)
    assert RAISE not in doctor.between(lambda: LARGE)


def test_the_profiles_differ_in_where_they_look_and_how_fast_they_send_and_in_nothing_else():
    where = {"interfaceWhiteList", "maxInitialPeersRange", "metatrafficUnicastLocatorList", "initialPeersList"}

    def parts(file: Path, skip: set[str]) -> list[tuple[str, str]]:
        root = ElementTree.parse(file).getroot()
        for parent in list(root.iter()):
            for child in [child for child in parent if child.tag.rpartition("}")[2] in skip]:
                parent.remove(child)
        return [(element.tag, (element.text or "").strip()) for element in root.iter()]

    assert parts(SMALL, where) == parts(NETWORK, where)
    assert parts(SMALL, {"max_bytes_per_period"}) == parts(LOOPBACK, {"max_bytes_per_period"})
    assert parts(SMALL, set()) != parts(LOOPBACK, set())


def test_a_node_of_the_graph_shares_no_memory_and_is_reached_through_loopback_alone(start):
    peer = start("alone", variables(CONFIG, {}))
    assert peer.hears("alone")
    assert "/dev/shm/fastdds" not in mapped(peer.process.pid)
    listening = {address.partition(":")[0] for address in sockets(peer.process.pid)}
    assert listening == {"0100007F"}


@pytest.mark.parametrize("other", [{}, {RANGE: "LOCALHOST"}, variables(CONFIG, {RANGE: "SUBNET"})], ids=json.dumps)
def test_a_node_hears_and_is_heard_by_another_terminal_of_this_machine(start, other):
    node, terminal = start("node", variables(CONFIG, {})), start("terminal", other)
    assert node.hears("terminal") and terminal.hears("node")


def test_who_takes_the_place_of_a_killed_process_is_heard_by_those_who_live(start):
    ours = variables(CONFIG, {})
    living, dying = start("living", ours), start("first", ours)
    for number in range(3):
        assert living.hears("first" if number == 0 else f"next {number}")
        dying.end()
        dying = start(f"next {number + 1}", ours)
    assert living.hears("next 3") and dying.hears("living")
