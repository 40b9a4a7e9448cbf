"""The action spaces that this package reads and writes, each with where it is read from."""

from __future__ import annotations

import difflib

from actdistill_ros.contract.action_spaces.convention import Convention
from actdistill_ros.contract.action_spaces.parts import Gripper, Reference, Rotation
from actdistill_ros.contract.contract import ContractError

ARX5_WIDTH_M = 0.088  # between the fingers of an open X5 or L5; the X5 with UMI's fingers opens to 0.086

_OPEN_IS_ONE = Gripper(closed=0.0, open=1.0)
_OSC_POSE = {"metres": 0.05, "radians": 0.5, "limit": 1.0}  # of one unit, at robosuite's defaults
_OXE = "openvla/openvla prismatic/vla/datasets/rlds/oxe/transforms.py"
_LIBERO = "Lifelong-Robot-Learning/LIBERO with robosuite 1.4 controllers/config/osc_pose.json: output_max 0.05, 0.5"


def arx5_metres(width_m: float = ARX5_WIDTH_M) -> Convention:
    """Deltas as the product has them, with the gripper's opening in metres between the fingers, as the SDK has it."""
    return Convention("arx5_metres", Rotation.VECTOR, Gripper(0.0, width_m), "real-stanford/arx5-sdk: gripper_width")


def arx5_pose(width_m: float = ARX5_WIDTH_M) -> Convention:
    """TCP poses as the SDK's Cartesian controller takes them: x, y, z [m], roll, pitch, yaw [rad], gripper [m]."""
    return Convention(
        "arx5_pose",
        Rotation.EULER,
        Gripper(0.0, width_m),
        "real-stanford/arx5-sdk: EEFState.pose_6d, R = Rz(yaw) Ry(pitch) Rx(roll)",
        reference=Reference.ABSOLUTE,
    )


_DECLARED = (
    Convention("product", Rotation.VECTOR, _OPEN_IS_ONE, "contract/chunk.py"),
    Convention(
        "bridge_orig",
        Rotation.EULER,
        _OPEN_IS_ONE,
        f"{_OXE}: bridge_orig_dataset_transform; microsoft/CogACT sim_cogact: euler2axangle",
    ),
    Convention(
        "fractal20220817_data",
        Rotation.EULER,
        _OPEN_IS_ONE,
        f"{_OXE}: rt1_dataset_transform, gripper made absolute; microsoft/CogACT sim_cogact: euler2axangle",
    ),
    Convention(
        "fractal_raw",
        Rotation.VECTOR,
        Gripper(closed=1.0, open=-1.0, relative=True),
        "simpler-env/SimplerEnv simpler_env/policies/rt1/rt1_model.py: action_rotation_mode axis_angle on the data's "
        f"robot; {_OXE}: gripper_closedness_action, +1 closes, −1 opens, 0 keeps",
    ),
    Convention(
        "libero_rlds", Rotation.VECTOR, _OPEN_IS_ONE, f"{_OXE}: libero_dataset_transform; {_LIBERO}", **_OSC_POSE
    ),
    Convention("libero", Rotation.VECTOR, Gripper(closed=1.0, open=-1.0, binary=True), _LIBERO, **_OSC_POSE),
    Convention(
        "openpi_libero",
        Rotation.VECTOR,
        Gripper(closed=1.0, open=-1.0),
        "Physical-Intelligence/openpi examples/libero/main.py: the served actions go to the environment as they are",
        **_OSC_POSE,
    ),
    Convention(
        "simpler_widowx",
        Rotation.VECTOR,
        Gripper(closed=-1.0, open=1.0, binary=True),
        "simpler-env/SimplerEnv, microsoft/CogACT sim_cogact: 2 (open > 0.5) − 1; frame ee_align2",
    ),
    Convention(
        "simpler_google_robot",
        Rotation.VECTOR,
        Gripper(closed=1.0, open=-1.0, relative=True),
        "simpler-env/SimplerEnv, microsoft/CogACT sim_cogact: opening before less opening now; frame ee_align",
    ),
    arx5_metres(),
    arx5_pose(),
)
CONVENTIONS = {convention.name: convention for convention in _DECLARED}
OF_STATISTICS = {
    "bridge_orig": "bridge_orig",
    "bridge_dataset": "bridge_orig",
    "fractal20220817_data": "fractal20220817_data",
    **{
        f"libero_{suite}{ending}": "libero_rlds"
        for suite in ("spatial", "object", "goal", "10", "90")
        for ending in ("", "_no_noops")
    },
}  # key of a published checkpoint's statistics -> what its un-normalised actions are


def convention(name: str) -> Convention:
    """Raises ContractError, listing the valid names, if there is none of this name."""
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    near = difflib.get_close_matches(name, CONVENTIONS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ContractError(f"there is no action space {name!r}; valid names: {', '.join(sorted(CONVENTIONS))}.{hint}")


def of_statistics(key: str) -> Convention:
    """What actions are once un-normalised with a published checkpoint's statistics.

    Raises ContractError if the data set behind them is not known: its convention has to be named then, never guessed.
    """
    if key in OF_STATISTICS:
        return CONVENTIONS[OF_STATISTICS[key]]
    raise ContractError(
        f"which action space the statistics {key!r} belong to is not known; known are those of "
        f"{', '.join(sorted(OF_STATISTICS))}. Name the action space yourself, one of {', '.join(sorted(CONVENTIONS))}."
    )
