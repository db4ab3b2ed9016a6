"""V-JEPA 2-AC as a world model: a frozen video encoder, and a predictor of a frame's tokens from actions and poses.

Reference: Assran et al. 2025 (arXiv:2506.09985), section 3; facebookresearch/vjepa2 app/vjepa_droid/train.py and
notebooks/utils/mpc_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.functional.goal_reward import GoalReward, mean_absolute_distance
from worldloom_rl.keys import GOAL, as_tuple
from worldloom_rl.latents.window import Window, choose, first_frame, sequence_windows
from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig
from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder
from worldloom_rl.models.vjepa2.policy import make_policy
from worldloom_rl.models.vjepa2.pose import POSE, next_pose
from worldloom_rl.models.vjepa2.predictor import VJEPA2ACPredictor, ac_terms, normalise_tokens
from worldloom_rl.noise import Noise
from worldloom_rl.specs.observations import is_image, is_real_vector, leaves_of
from worldloom_rl.world_model import Latent, Observation, Prediction, WorldModel
from worldloom_rl.world_model.windowed import goal_key, loss_values, renewed_goal

# Metres, radians and gripper closedness, each way: the released planner's reach, a turn, the gripper's whole way.
ACTION_LIMITS = (0.05, 0.05, 0.05, math.pi, math.pi, math.pi, 1.0)


class _Keys(NamedTuple):
    """Where the observations stand."""

    pixels: NestedKey
    pose: NestedKey
    extrinsics: NestedKey | None
    goal: NestedKey


class VJEPA2AC(WorldModel):
    """V-JEPA 2-AC: plans a robot arm's motions to a goal image; needs no rewards, and its encoder is not trained.

    It needs transformers (the extra `vjepa`). Fresh encoder weights see nothing: load a checkpoint with
    `worldloom import vjepa2`, or take those of an encoder of the same size, and train the predictor on them:

        encoder = VJEPA2Encoder.from_pretrained("path/to/vjepa2-vitg-fpc64-256")
        model.encoder.load_state_dict(encoder.state_dict())

    The goal is observed, under ("goal", the image's key); it is added to the observation spec if it is not there.
    Acting needs it, learning does not. The latent has the leaves "tokens" [N, E] of this frame, layer-normed; "window",
    "action_window" and "length" (see `latents.window.Window`); "proprio" [7], the pose, and "proprio_window" [H, 7];
    "goal" [N, E], encoded where an episode begins and kept until it ends; and "extrinsics" [6] with `use_extrinsics`.
    A prediction moves the pose as the action says (`next_pose`).

    The reward is minus the mean absolute distance of tokens and goal (see `GoalReward` for another), the probability of
    going on is one, and nothing can be decoded.

    Args:
        config: sizes and numbers.
        observation_spec: one square RGB image [3, S, S] (uint8, or real in [0, 1]), resized to the encoder's size where
            it has another; one real vector [7], the pose; with `use_extrinsics` a real vector [6], "extrinsics".
        action_spec: one key of 7 real numbers: metres, radians and the change of the gripper.

    `compute_loss` gives "teacher_forcing" and "rollout".
    """

    model_type = "vjepa2"
    config: VJEPA2ACConfig

    def __init__(
        self,
        config: VJEPA2ACConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        keys = _find_keys(observation_spec, config.use_extrinsics)
        super().__init__(config, _used(observation_spec, keys), action_spec, key_map)
        if self.action_space.width != POSE or not self.action_space.is_continuous:
            raise ValueError(
                f"V-JEPA 2-AC's actions are {POSE} real numbers, differences of poses; this action spec has the "
                f"keys {self.action_space.keys} of {self.action_space.width} numbers, real or classes."
            )
        self.keys_read = keys
        self.distance = mean_absolute_distance
        rows, columns = config.grid
        frame, size = (rows * columns, config.encoder_dim), config.history
        self.latent_spec = Composite(
            tokens=Unbounded(frame),
            window=Unbounded((size, *frame)),
            action_window=Unbounded((size, POSE)),
            length=Bounded(0, size, shape=(), dtype=torch.int64),
            proprio=Unbounded((POSE,)),
            proprio_window=Unbounded((size, POSE)),
            goal=Unbounded(frame),
        )
        if config.use_extrinsics:
            self.latent_spec["extrinsics"] = Unbounded((POSE - 1,))
        self.encoder = VJEPA2Encoder(config.transformers_config()).requires_grad_(False).eval()
        self.predictor = VJEPA2ACPredictor(
            token_dim=config.encoder_dim,
            dim=config.predictor_dim,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            hidden=config.predictor_mlp_dim,
            grid=config.grid,
            use_extrinsics=config.use_extrinsics,
        )

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """RGB images of 256 x 256 pixels, a pose "proprio", and actions of up to 5 cm an axis and step."""
        limits = torch.tensor(ACTION_LIMITS, device="cpu")
        return (
            Composite(
                pixels=Unbounded((3, 256, 256), dtype=torch.uint8, device="cpu"),
                proprio=Unbounded((POSE,), device="cpu"),
            ),
            Composite(action=Bounded(-limits, limits, dtype=torch.float32, device="cpu")),
        )

    def train(self, mode: bool = True) -> VJEPA2AC:
        """Training or evaluation mode; the frozen encoder stays in evaluation."""
        super().train(mode)
        self.encoder.eval()
        return self

    # ------------------------------------------------------------------ the tensor core

    @property
    def loss_keys(self) -> tuple[NestedKey, ...]:
        """The image, the pose and, with them, the extrinsics, the previous action and "is_init"; no goal, no reward."""
        keys = self.keys_read
        observed = [key for key in (keys.pixels, keys.pose, keys.extrinsics) if key is not None]
        return (*observed, *self.previous_action_keys, self.key_map.is_init)

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """[..., N, E] normalised tokens of images [..., 3, S, S], each encoded alone; without gradient."""
        size = self.config.image_size
        if image.shape[-1] != size:
            lead, kind = image.shape[:-3], image.dtype
            flat = image.reshape(-1, *image.shape[-3:]).to(self.action_space.center.dtype)
            flat = F.interpolate(flat, (size, size), mode="bilinear", antialias=True)
            image = flat.reshape(*lead, *flat.shape[1:]) / (255.0 if kind == torch.uint8 else 1.0)
        return self.encoder(image)

    def predict_tokens(self, frames: Tensor, actions: Tensor, poses: Tensor, extrinsics: Tensor | None) -> Tensor:
        """[..., L, N, E] at each place the normalised prediction of the next frame, from that place and those before.

        Args:
            frames: [..., L, N, E]; actions: flat [..., L, 7]; poses: [..., L, 7]; extrinsics: [..., L, 6].
        """
        lead = frames.shape[:-3]
        flat = [
            None if x is None else x.reshape(-1, *x.shape[len(lead) :]) for x in (frames, actions, poses, extrinsics)
        ]
        tokens, action, pose, camera = flat
        assert tokens is not None
        assert action is not None
        assert pose is not None
        predicted = normalise_tokens(self.predictor(tokens, self.motion(action), pose, camera))
        return predicted.reshape(*lead, *predicted.shape[1:])

    def motion(self, action: Tensor) -> Tensor:
        """[..., 7] metres, radians and gripper closedness of flat actions, whose numbers are in [-1, 1]."""
        return (action * self.action_space.half_range + self.action_space.center).to(action.dtype)

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        tokens = self.embed(observation[self.keys_read.pixels])
        window = first_frame(tokens, self.config.history, 2 * POSE)
        return self._latent(window, tokens, observation, self.embed(observation[self.keys_read.goal]))

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        tokens = self.embed(observation[self.keys_read.pixels])
        # A carry of zeros, as after a random prefill, has seen nothing: it begins here, whatever is_init says.
        begins = is_init.squeeze(-1) | (previous["length"] == 0)
        goal = renewed_goal(previous["goal"], begins, lambda: self.embed(observation[self.keys_read.goal]))
        fresh = first_frame(tokens, self.config.history, 2 * POSE)
        window = fresh
        if self.config.context > 1:
            left = _window(previous).leaving(torch.cat([previous_action, previous["proprio"]], -1))
            window = choose(begins, fresh, left.recent(self.config.context - 1).arriving(tokens))
        return self._latent(window, tokens, observation, goal)

    def _latent(self, window: Window, tokens: Tensor, observation: Observation, goal: Tensor) -> Latent:
        keys = self.keys_read
        camera = None if keys.extrinsics is None else observation[keys.extrinsics].to(tokens.dtype)
        return _latent(window, tokens, observation[keys.pose].to(tokens.dtype), goal, camera)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        pose, camera = latent["proprio"], latent.get("extrinsics")
        action = action.to(pose.dtype)
        window = _window(latent).leaving(torch.cat([action, pose], -1))
        actions, poses = window.actions.split(POSE, -1)
        cameras = None if camera is None else camera.unsqueeze(-2).expand(*poses.shape[:-1], -1)
        tokens = window.read(self.predict_tokens(window.frames, actions, poses, cameras))
        arrived = _latent(window.arriving(tokens), tokens, next_pose(pose, self.motion(action)), latent["goal"], camera)
        reward = GoalReward(self.distance)(latent, arrived)
        return Prediction(arrived, reward, torch.ones_like(reward))

    def latent_features(self, latent: Latent) -> Tensor:
        """[..., 2 E + 7] the means of the tokens and of the goal's, and the pose."""
        return torch.cat([latent["tokens"].mean(-2), latent["goal"].mean(-2), latent["proprio"]], -1)

    def discount(self, latent: Latent) -> Tensor:
        return latent["tokens"].new_full((1,), self.config.discount)

    # ------------------------------------------------------------------ acting and learning

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observes, plans and acts, for any collector; the options are those of `policy.make_planner`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        """As the reference sums its two terms."""
        return {"teacher_forcing": 1.0, "rollout": 1.0}

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """The terms "teacher_forcing" [B, T − 1] and "rollout" [B, rollout_steps] from [B, T] rows, T > rollout_steps.

        Predictions that would cross the start of another episode count zero, and the others are scaled so that a term's
        mean is that over what counts. The posterior holds the latents [B, T, …] as acting would have them, each goal
        being the last row's tokens.
        """
        keys, config = self.keys_read, self.config
        values = loss_values(self, batch)
        tokens = self.embed(values[keys.pixels])
        poses = values[keys.pose].to(tokens.dtype)
        camera = None if keys.extrinsics is None else values[keys.extrinsics].to(tokens.dtype)
        action = self.read_previous_action(batch)[:, 1:]
        starts = values[self.key_map.is_init].squeeze(-1)
        terms = ac_terms(
            self.predictor, tokens, self.motion(action), poses, camera,
            rollout_steps=config.rollout_steps, exponent=config.loss_exponent,
        )  # fmt: skip
        whole = starts[:, 1:].cumsum(1) == 0  # no later episode has begun
        losses = {
            "teacher_forcing": _mean_over(terms.teacher_forcing_loss, whole),
            "rollout": _mean_over(terms.rollout_loss, whole[:, : config.rollout_steps]),
        }
        # The action that leaves a row is the next row's previous one; the last row's is not known yet.
        leaving = torch.cat([F.pad(action, (0, 0, 0, 1)), poses], -1)
        window = sequence_windows(tokens, leaving, starts, config.context)
        window = window.padded(config.history)
        latent = _latent(window, tokens, poses, tokens[:, -1:].expand_as(tokens), camera)
        return losses, self.write_latent(TensorDict({}, batch_size=batch.batch_size, device=batch.device), latent)


def _window(latent: Latent) -> Window:
    """The latent's window, whose last frame is the latent's tokens; its actions have the poses beside them."""
    conditions = torch.cat([latent["action_window"], latent["proprio_window"]], -1)
    return Window(latent["window"], conditions, latent["length"]).with_last(latent["tokens"])


def _latent(window: Window, tokens: Tensor, pose: Tensor, goal: Tensor, camera: Tensor | None) -> Latent:
    actions, poses = window.actions.split(POSE, -1)
    latent = {
        "tokens": tokens, "window": window.frames, "action_window": actions, "length": window.length, "proprio": pose,
        "proprio_window": poses, "goal": goal,
    }  # fmt: skip
    return latent if camera is None else {**latent, "extrinsics": camera}


def _mean_over(loss: Tensor, counts: Tensor) -> Tensor:
    """The loss where it counts, zero elsewhere, scaled so that the mean is the one over what counts."""
    share = counts.to(loss.dtype).mean()
    return torch.where(counts, loss, torch.zeros_like(loss)) / share.clamp(min=1e-6)


def _find_keys(spec: Composite, use_extrinsics: bool) -> _Keys:
    """The keys of image, pose and extrinsics. Raises ValueError unless the spec has exactly these, beside goals."""
    leaves = leaves_of(spec)
    frames = {key: leaf for key, leaf in leaves.items() if as_tuple(key)[0] != GOAL}
    images = [key for key, leaf in frames.items() if is_image(leaf)]
    cameras = [key for key in frames if as_tuple(key)[-1] == "extrinsics"] if use_extrinsics else []
    poses = [key for key, leaf in frames.items() if is_real_vector(leaf) and key not in cameras]
    wanted = "one square RGB image [3, S, S], one real vector [7], the pose"
    wanted += ' and one real vector [6], "extrinsics"' if use_extrinsics else ""
    found = {str(key): (tuple(leaf.shape), leaf.dtype) for key, leaf in frames.items()}
    mismatch = ValueError(f"V-JEPA 2-AC observes {wanted}, beside goals; this observation spec has {found}.")
    if len(images) != 1 or len(poses) != 1 or len(cameras) != use_extrinsics or len(frames) != 2 + use_extrinsics:
        raise mismatch
    channels, height, width = frames[images[0]].shape
    if channels != 3 or height != width or not all(is_real_vector(frames[key]) for key in cameras):
        raise mismatch
    if frames[poses[0]].shape != (POSE,) or any(frames[key].shape != (POSE - 1,) for key in cameras):
        raise mismatch
    goal = goal_key(images[0])
    if goal in leaves and leaves[goal].shape != frames[images[0]].shape:
        raise ValueError(
            f"The goal {goal} has shape {leaves[goal].shape}, but {images[0]!r} {frames[images[0]].shape}."
        )
    return _Keys(images[0], poses[0], cameras[0] if cameras else None, goal)


def _used(spec: Composite, keys: _Keys) -> Composite:
    """The spec of what is read: without other goals, with the image's goal."""
    used = Composite(device=spec.device)
    for key in (keys.pixels, keys.pose, keys.extrinsics):
        if key is not None:
            used[key] = spec[key].clone()
    used[keys.goal] = spec[keys.pixels].clone()
    return used
