"""Poses of a robot's hand: where an action takes it, and the action between two of them.

A pose [..., 7] is the position (metres), the extrinsic x-y-z Euler angles (radians) and how far the gripper is closed,
in [0, 1]. An action [..., 7] is a difference of poses: added to the position and the gripper, turned on top of the
orientation. Reference: V-JEPA 2-AC (arXiv:2506.09985); vjepa2 notebooks/utils/mpc_utils.py and app/vjepa_droid.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSE = 7  # numbers of a pose and of an action


def next_pose(pose: Tensor, action: Tensor) -> Tensor:
    """[..., 7] the pose after an action: x + a, R(a) R(x), and the gripper's sum cut to [0, 1]."""
    position = pose[..., :3] + action[..., :3]
    rotation = rotation_matrix(action[..., 3:6]) @ rotation_matrix(pose[..., 3:6])
    gripper = (pose[..., 6:] + action[..., 6:]).clamp(0.0, 1.0)
    return torch.cat([position, euler_angles(rotation), gripper], -1)


def pose_difference(pose_t: Tensor, pose_tp1: Tensor) -> Tensor:
    """[..., 7] the action that leads from one pose to the next: Δx, the Euler angles of Rₜ₊₁ Rₜᵀ, Δgripper."""
    turn = rotation_matrix(pose_tp1[..., 3:6]) @ rotation_matrix(pose_t[..., 3:6]).mT
    return torch.cat([pose_tp1[..., :3] - pose_t[..., :3], euler_angles(turn), pose_tp1[..., 6:] - pose_t[..., 6:]], -1)


def rotation_matrix(angles: Tensor) -> Tensor:
    """[..., 3, 3] R_z R_y R_x of extrinsic x-y-z Euler angles [..., 3]."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    ]
    return torch.stack(rows, -2)


def euler_angles(rotation: Tensor) -> Tensor:
    """[..., 3] extrinsic x-y-z Euler angles of rotation matrices [..., 3, 3], the middle one in [-π/2, π/2].

    At ±π/2 only the sum or the difference of the other two is determined; which two come out is left to rounding.
    """
    x = torch.atan2(rotation[..., 2, 1], rotation[..., 2, 2])
    cosine = (rotation[..., 0, 0].square() + rotation[..., 1, 0].square()).clamp_min(1e-12).sqrt()
    y = torch.atan2(-rotation[..., 2, 0], cosine)
    z = torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return torch.stack([x, y, z], -1)
