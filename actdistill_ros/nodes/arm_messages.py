"""Messages of the arm: chunks in, state, joints and frames out."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, TransformStamped, Vector3
from sensor_msgs.msg import JointState

from actdistill_ros.arm.backend import JointFeedback
from actdistill_ros.contract.chunk import ACTION_DIM, GRIPPER, ROTATION, TRANSLATION, Chunk
from actdistill_ros.contract.observation import ArmPose
from actdistill_ros.control.kinematics import Chain
from actdistill_ros.control.limits import GRIPPER_WIDTH_M, JOINT_NAMES
from actdistill_ros.control.loop import LoopState
from actdistill_ros.control.pose import to_quaternion_xyzw
from actdistill_ros.msg import ActionChunk, ArmState, EndEffectorAction
from actdistill_ros.nodes.stamps import to_seconds, to_stamp

BASE = "base_link"
FINGER_NAMES = ("finger1", "finger2")
FINGER_TRAVEL_M = GRIPPER_WIDTH_M / 2
FINGER_AT_M = 0.0866  # along x of link6, as in urdf/


def chunk_from_message(message: ActionChunk) -> Chunk:
    """Raises ValueError if the actions are not given in `base_link`; everything else is the driver's to judge."""
    if message.header.frame_id != BASE:
        raise ValueError(
            f"frame_id is {message.header.frame_id!r}, expected {BASE!r}: deltas in another frame are not converted"
        )
    actions = np.array([_row(action) for action in message.actions], dtype=float).reshape(-1, ACTION_DIM)
    return Chunk(
        actions,
        message.period_s,
        message.execute,
        to_seconds(message.header.stamp),
        message.instruction,
        message.checkpoint_id,
    )


def chunk_message(chunk: Chunk) -> ActionChunk:
    message = ActionChunk(
        period_s=float(chunk.period_s),
        execute=int(chunk.execute),
        instruction=chunk.instruction,
        checkpoint_id=chunk.checkpoint_id,
    )
    message.header.stamp = to_stamp(chunk.stamp_s)
    message.header.frame_id = BASE
    for row in chunk.actions:
        message.actions.append(
            EndEffectorAction(
                translation_m=_vector(row[TRANSLATION]),
                rotation_rad=_vector(row[ROTATION]),
                gripper=float(row[GRIPPER]),
            )
        )
    return message


def arm_state_message(state: LoopState) -> ArmState:
    arm = state.driver
    message = ArmState(
        mode=int(arm.mode),
        source=arm.source,
        reason=arm.reason,
        faults=list(arm.faults),
        events=list(state.events),
        tcp_commanded=pose_message(arm.tcp_commanded),
        gripper_commanded=arm.gripper_commanded,
        gripper_measured=arm.gripper_measured,
        chunk_stamp=to_stamp(arm.chunk_stamp_s),
        actions_done=arm.actions_done,
        actions_left=arm.actions_left,
    )
    message.header.stamp = to_stamp(arm.feedback_stamp_s)
    message.header.frame_id = BASE
    # Motors that answer nonsense have no pose; zeros would look like one.
    nowhere = Pose(position=Point(x=np.nan, y=np.nan, z=np.nan))
    message.tcp_measured = pose_message(arm.tcp_measured) if arm.tcp_measured else nowhere
    return message


def joint_state_message(feedback: JointFeedback) -> JointState:
    """Joints and both fingers [rad, m]; each finger slides by half of the jaw."""
    finger_m = feedback.gripper * FINGER_TRAVEL_M
    message = JointState(
        name=[*JOINT_NAMES, *FINGER_NAMES],
        position=[*feedback.position_rad.tolist(), finger_m, finger_m],
        velocity=[*feedback.velocity_rad_s.tolist(), 0.0, 0.0],
        effort=[*feedback.effort_nm.tolist(), 0.0, 0.0],
    )
    message.header.stamp = to_stamp(feedback.stamp_s)
    return message


def transforms(feedback: JointFeedback, chain: Chain) -> list[TransformStamped]:
    """Where every link of the URDF is, each in `base_link`; fingers and eef_link in link6."""
    rotations, origins = chain.link_frames(feedback.position_rad)
    frames = [_transform(feedback, BASE, f"link{i + 1}", origins[i], rotations[i]) for i in range(6)]
    finger_m = feedback.gripper * FINGER_TRAVEL_M
    for name, side in zip(FINGER_NAMES, (1.0, -1.0)):
        at = np.array([FINGER_AT_M, side * finger_m, 0.0])
        frames.append(_transform(feedback, "link6", f"{name}_link", at, np.eye(3)))
    return [*frames, _transform(feedback, "link6", "eef_link", chain.tcp_in_link6_m, np.eye(3))]


def pose_message(pose: ArmPose) -> Pose:
    x, y, z, w = to_quaternion_xyzw(pose.rotation).tolist()
    at = pose.position_m.tolist()
    return Pose(position=Point(x=at[0], y=at[1], z=at[2]), orientation=Quaternion(x=x, y=y, z=z, w=w))


def _row(action: EndEffectorAction) -> list[float]:
    move, turn = action.translation_m, action.rotation_rad
    return [move.x, move.y, move.z, turn.x, turn.y, turn.z, action.gripper]


def _vector(values: np.ndarray) -> Vector3:
    return Vector3(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def _transform(
    feedback: JointFeedback, parent: str, child: str, at: np.ndarray, rotation: np.ndarray
) -> TransformStamped:
    x, y, z, w = to_quaternion_xyzw(rotation).tolist()
    message = TransformStamped(
        child_frame_id=child, transform=Transform(translation=_vector(at), rotation=Quaternion(x=x, y=y, z=z, w=w))
    )
    message.header.stamp = to_stamp(feedback.stamp_s)
    message.header.frame_id = parent
    return message
