"""Which arm the driver gets."""

import pytest

from actdistill_ros.arm import hardware
from actdistill_ros.arm.backend import ArmError
from actdistill_ros.arm.emulated.plant import WorldPlant


def test_a_model_that_the_simulated_world_does_not_have_is_refused_with_what_runs_it(tmp_path):
    with pytest.raises(
        ArmError, match="model is L5, but the arm in the simulated world is an X5. hardware:=sdk_sim runs"
    ):
        hardware.make("sim", str(tmp_path), "can0", "L5")
    with pytest.raises(ArmError, match="model is L5, but the arm in the simulated world is an X5: leave the world out"):
        WorldPlant("L5", tmp_path)


@pytest.mark.parametrize("kind", ["sdk_sim", "real"])
def test_a_model_that_nobody_knows_is_refused_with_those_there_are(tmp_path, kind):
    with pytest.raises(ArmError, match="model is 'l5', expected one of X5, L5"):
        hardware.make(kind, str(tmp_path), "can0", "l5")
