"""Whoever takes a graph down tells the real service of the driver to hold first."""

import os

import pytest
from std_srvs.srv import Trigger

from actdistill_ros.nodes.hold import Holder
from actdistill_ros.nodes.participant import Participant
from actdistill_ros.nodes.stopping import STOP

DOMAIN = 1 + os.getpid() % 100


@pytest.fixture
def asked():
    """How often a driver in namespace /left was asked to stop."""
    driver, stops = Participant("arm_driver_node", "/left", DOMAIN), []

    def answer(request, response):
        stops.append(request)
        return response

    driver.node.create_service(Trigger, STOP, answer)
    driver.start()
    yield stops
    driver.close()


@pytest.fixture
def holder():
    holder = Holder("/left", DOMAIN)
    yield holder
    holder.close()


def test_the_driver_of_this_namespace_is_asked_to_hold(asked, holder):
    assert holder.hold(5.0)
    assert asked


def test_without_a_driver_the_wish_to_hold_ends_in_time(holder):
    assert not holder.hold(0.2)


def test_nodes_that_run_already_are_found_by_name(asked, holder):
    assert holder.others(("arm_driver_node", "camera_node"), 5.0) == ["arm_driver_node"]


def test_nodes_of_other_namespaces_are_not_in_the_way(asked):
    right = Holder("/right", DOMAIN)
    assert right.others(("arm_driver_node",), 0.3) == []
    right.close()
