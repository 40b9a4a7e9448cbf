"""The MuJoCo model of arm, table, blocks and bowl, built from the robot's numbers; it needs no mesh files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from actdistill_ros.control.kinematics import JOINT_AXES, X5
from actdistill_ros.control.limits import GRIPPER_WIDTH_M, JOINT_MAX, JOINT_MIN, JOINT_TORQUE_MAX
from actdistill_ros.sim import layout

TIMESTEP_S = 0.004
KP = (200.0, 200.0, 200.0, 120.0, 80.0, 60.0)  # SDK cartesian controller gains
KD = (5.0, 5.0, 5.0, 1.0, 1.0, 1.0)
FINGER_TRAVEL_M = GRIPPER_WIDTH_M / 2

# mass [kg], centre of mass [m], principal-axis inertia approximated by the URDF's diagonal [kg m²]; the two fingers'
# 0.065 kg each are taken out of link6.
_INERTIA = (
    (0.064, (0.00571213, 0.0002547, 0.01750661), (0.00008, 0.00003, 0.00007)),
    (1.165, (-0.13225701, 0.00072373, 0.00004274), (0.00057063, 0.03669927, 0.03683489)),
    (0.546, (0.19096098, 0.00069065, -0.05342172), (0.00178249, 0.02486615, 0.02329476)),
    (0.080971, (0.03092317, 0.0066107, -0.03138504), (0.00017832, 0.00021182, 0.00011328)),
    (0.655, (0.0040681, 0.00000885, 0.05120675), (0.00254972, 0.00255018, 0.00026961)),
    (0.451, (0.05435277, 0.0, 0.0), (0.00029, 0.00028, 0.00045)),
)

_DARK, _LIGHT, _RUBBER = "0.13 0.13 0.15 1", "0.85 0.86 0.88 1", "0.25 0.25 0.27 1"
# Looks only: capsules along the links (from, to, radius, colour), in each link's frame.
_SHAPES = (
    (((0, 0, -0.03), (0.02, 0, 0.04), 0.032, _DARK),),
    (((0, 0, 0), (-0.264, 0, 0), 0.026, _LIGHT), ((0, -0.035, 0), (0, 0.035, 0), 0.032, _DARK)),
    (
        ((0, -0.033, 0), (0, 0.033, 0), 0.030, _DARK),
        ((0.02, 0, -0.03), (0.235, 0, -0.056), 0.022, _LIGHT),
    ),
    (((0, -0.028, 0), (0, 0.028, 0), 0.026, _DARK), ((0, 0, -0.01), (0.06, 0, -0.07), 0.020, _LIGHT)),
    (((0, 0, 0), (0, 0, 0.083), 0.024, _DARK),),
    (((0.0, 0, 0), (0.055, 0, 0), 0.026, _LIGHT),),
)


def _numbers(values) -> str:
    return " ".join(f"{v:.9g}" for v in np.ravel(values))


def _capsule(start, end, radius, rgba) -> str:
    return (
        f'<geom type="capsule" fromto="{_numbers(start)} {_numbers(end)}" size="{radius}" rgba="{rgba}" class="looks"/>'
    )


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(2, 3) x and y axes of a MuJoCo camera at `position` that looks at `target` (it looks along its −z)."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right)])


def _finger(name: str, side: int) -> str:
    # The pad's inner face meets the other pad at y = 0 when closed.
    pad_y, back_y = side * 0.005, side * 0.013
    return f"""
    <body name="{name}" pos="0.0866 0 0" gravcomp="1">
      <inertial pos="0.03 {side * 0.01} 0" mass="0.065" diaginertia="2e-5 2e-5 2e-5"/>
      <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_TRAVEL_M}" damping="2" armature="0.02"/>
      <geom type="box" pos="0.052 {pad_y} 0" size="0.020 0.005 0.011" class="pad"/>
      <geom type="box" pos="0.030 {back_y} 0" size="0.040 0.005 0.010" rgba="{_DARK}" class="looks"/>
    </body>"""


def _looks(link: str, shapes: str, meshes: Mapping[str, Path]) -> str:
    return f'<geom type="mesh" mesh="{link}" rgba="{_LIGHT}" class="looks"/>' if link in meshes else shapes


def _arm(meshes: Mapping[str, Path]) -> str:
    opening, closing = "", ""
    for i in range(6):
        mass, centre, inertia = _INERTIA[i]
        opening += f"""
        <body name="link{i + 1}" pos="{_numbers(X5.link_origins_m[i])}" euler="{X5.link_rolls_rad[i]:.9g} 0 0"
              gravcomp="1">
          <inertial pos="{_numbers(centre)}" mass="{mass}" diaginertia="{_numbers(inertia)}"/>
          <joint name="joint{i + 1}" axis="{_numbers(JOINT_AXES[i])}" range="{JOINT_MIN[i]} {JOINT_MAX[i]}"
                 armature="0.01" damping="0.1"/>
          {_looks(f"link{i + 1}", "".join(_capsule(*shape) for shape in _SHAPES[i]), meshes)}"""
        closing += "</body>"
    axes = look_at(layout.WRIST_POSITION_M, layout.WRIST_LOOK_AT_M, np.array([0.0, 0.0, 1.0]))
    hand = f"""
      <geom type="box" pos="0.072 0 0" size="0.018 0.050 0.022" rgba="{_DARK}" class="hand"/>
      <camera name="wrist" pos="{_numbers(layout.WRIST_POSITION_M)}" xyaxes="{_numbers(axes)}"
            fovy="{layout.WRIST_FOVY_DEG}"/>
      <site name="tcp" pos="0.145 0 0" size="0.004" rgba="0 0 0 0"/>{_finger("finger1", 1)}{_finger("finger2", -1)}"""
    return opening + hand + closing


def _bowl() -> str:
    """A fixed bowl of twelve tilted walls; its place is set at reset."""
    walls = ""
    count, radius = 12, layout.BOWL_RADIUS_M
    for i in range(count):
        angle = 2 * np.pi * i / count
        x, y = (radius + 0.008) * np.cos(angle), (radius + 0.008) * np.sin(angle)
        half = (radius + 0.016) * np.tan(np.pi / count)
        walls += (
            f'<geom type="box" pos="{x:.5f} {y:.5f} {layout.BOWL_WALL_M / 2:.5f}" euler="0 0 {angle:.5f}" '
            f'size="0.004 {half:.5f} {layout.BOWL_WALL_M / 2:.5f}" class="bowl"/>'
        )
    return f"""
    <body name="bowl" pos="0.3 0 {layout.TABLE_Z_M}">
      <geom type="cylinder" pos="0 0 0.002" size="{radius + 0.008} 0.002" class="bowl"/>{walls}
    </body>"""


def _blocks() -> str:
    half = layout.BLOCK_SIDE_M / 2
    text = ""
    for name, rgb in layout.COLOURS.items():
        text += f"""
    <body name="{name}" pos="0.3 0 0"><freejoint name="{name}"/>
      <geom name="{name}" type="box" size="{half} {half} {half}" mass="{layout.BLOCK_MASS_KG}"
            rgba="{_numbers(rgb)} 1" class="block"/>
    </body>"""
    return text


def _distractors() -> str:
    """Things nobody asks for; parked out of sight unless a suite places them."""
    shapes = {
        "cylinder": ('type="cylinder" size="0.018 0.025"', "0.55 0.20 0.60 1"),
        "ball": ('type="sphere" size="0.022"', "0.90 0.45 0.10 1"),
        "bar": ('type="box" size="0.045 0.012 0.012"', "0.15 0.55 0.60 1"),
    }
    return "".join(
        f'<body name="{name}" pos="-1 {i} -1"><geom name="{name}" {shape} rgba="{rgba}" class="bowl"/></body>'
        for i, (name, (shape, rgba)) in enumerate(shapes.items())
    )


def mjcf(meshes: Mapping[str, Path]) -> str:
    """The whole world as MJCF text. meshes: link name -> file that it looks like, see `sim.meshes`."""
    front = look_at(layout.FRONT_POSITION_M, layout.FRONT_LOOK_AT_M, np.array([0.0, 0.0, 1.0]))
    joints = "".join(
        f'<position joint="joint{i + 1}" kp="{KP[i]}" kv="{KD[i]}" '
        f'forcerange="{-JOINT_TORQUE_MAX[i]} {JOINT_TORQUE_MAX[i]}" ctrlrange="{JOINT_MIN[i]} {JOINT_MAX[i]}"/>'
        for i in range(6)
    )
    files = "".join(f'<mesh name="{link}" file={quoteattr(str(path))}/>' for link, path in meshes.items())
    base = '<geom type="box" pos="0 0 -0.03" size="0.06 0.06 0.03" rgba="0.3 0.3 0.32 1" class="looks"/>'
    base += _capsule((0, 0, 0), (0, 0, 0.05), 0.04, _DARK)
    return f"""
<mujoco model="arx_x5_tabletop">
  <compiler angle="radian" eulerseq="xyz"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="640" offheight="640"/>
    <quality shadowsize="0" offsamples="0" numslices="14" numstacks="6" numquads="1"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.35 0.35 0.35" specular="0.05 0.05 0.05"/>
    <map znear="0.01" zfar="6"/>
  </visual>
  <default>
    <default class="looks"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="hand"><geom contype="1" conaffinity="1" mass="0"/></default>
    <default class="pad"><geom contype="1" conaffinity="1" condim="4" friction="1.5 0.02 0.0001" solref="0.01 1"
      mass="0" rgba="{_RUBBER}"/></default>
    <default class="block"><geom contype="1" conaffinity="1" condim="4" friction="1.0 0.01 0.0001"
          solref="0.01 1"/></default>
    <default class="bowl"><geom contype="1" conaffinity="1" condim="3" friction="0.8 0.01 0.0001"
          rgba="0.93 0.93 0.90 1"/></default>
  </default>
  <asset>
    <texture name="table" type="2d" builtin="checker" rgb1="0.55 0.44 0.33" rgb2="0.52 0.41 0.30"
          width="128" height="128"/>
    <material name="table" texture="table" texrepeat="10 10" specular="0.1"/>{files}
  </asset>
  <worldbody>
    <light name="key" pos="0.4 -0.6 1.6" dir="0 0.35 -1" directional="true" diffuse="0.45 0.45 0.45"
          castshadow="false"/>
    <light name="fill" pos="0.4 0.8 1.2" dir="0 -0.6 -1" directional="true" diffuse="0.2 0.2 0.2" castshadow="false"/>
    <geom name="floor" type="plane" pos="0 0 -0.8" size="3 3 0.1" rgba="0.35 0.37 0.40 1" contype="1" conaffinity="1"/>
    <geom name="table" type="box" pos="0.30 0 {layout.TABLE_Z_M - 0.02}" size="0.42 0.50 0.02" material="table"
          contype="1" conaffinity="1" condim="4" friction="0.8 0.01 0.0001"/>
    <camera name="front" pos="{_numbers(layout.FRONT_POSITION_M)}" xyaxes="{_numbers(front)}"
          fovy="{layout.FRONT_FOVY_DEG}"/>
    <body name="base_link">
      {_looks("base_link", base, meshes)}{_arm(meshes)}
    </body>{_bowl()}{_blocks()}{_distractors()}
  </worldbody>
  <contact><exclude body1="finger1" body2="finger2"/></contact>
  <equality><joint joint1="finger2" joint2="finger1" polycoef="0 1 0 0 0"/></equality>
  <actuator>{joints}
    <position name="gripper" joint="finger1" kp="2000" kv="40" forcerange="-12 12" ctrlrange="0 {FINGER_TRAVEL_M}"/>
  </actuator>
</mujoco>"""
