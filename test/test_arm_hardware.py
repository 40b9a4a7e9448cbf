"""Which arm the driver gets."""

from dataclasses import replace

import pytest

from actdistill_ros.arm import hardware, sdk_settings
from actdistill_ros.arm.backend import ArmError


def test_an_arm_with_other_links_is_refused_before_anything_is_connected():
    settings = sdk_settings.load()
    assert hardware.of_this_arm(settings) is settings
    with pytest.raises(ArmError, match="says model L5; kinematics, .* are those of the X5"):
        hardware.of_this_arm(replace(settings, model="L5"))
