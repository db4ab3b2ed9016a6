"""What JEPA models share that see a window of frames and plan to an observed goal: the latent and how it moves on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.config import WorldModelConfig
from worldloom_rl.functional.goal_reward import Distance, GoalReward
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.keys import GOAL, as_tuple
from worldloom_rl.latents.window import Window, choose, first_frame
from worldloom_rl.noise import Noise
from worldloom_rl.world_model.core import Latent, Observation, Prediction
from worldloom_rl.world_model.model import WorldModel


class WindowedJEPA(WorldModel):
    """A world model of token frames [N, D] that sees the last H of them and is told its goal by an observation.

    Goals stand under ("goal", key) for every observation key; leaves that the observation spec lacks are added to it.
    Acting needs them, learning does not. The latent has the leaves "tokens" [N, D] of this frame, "window",
    "action_window" and "length" (see `latents.window.Window`; 0 before any observation), and "goal"
    [N, D], encoded where an episode begins and kept until it ends.

    There are no heads for reward and continuation: the reward is minus the distance of tokens and goal (see
    `GoalReward` for another), the probability of going on is one, and nothing can be decoded.

    Attributes:
        frame_keys: the observation keys that are not goals.
        history: H.
        distance: of tokens [..., N, D] from a goal, [..., 1]; a family sets it.
    """

    distance: Distance

    def __init__(
        self,
        config: WorldModelConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None,
        *,
        history: int,
    ) -> None:
        frames = frame_keys(observation_spec)
        super().__init__(config, with_goals(observation_spec, frames), action_spec, key_map)
        self.frame_keys = frames
        self.history = history

    def describe_latent(self, tokens: int, width: int) -> None:
        """Sets the latent's spec for frames [N, D]."""
        frame, size = (tokens, width), self.history
        self.latent_spec = Composite(
            tokens=Unbounded(frame),
            window=Unbounded((size, *frame)),
            action_window=Unbounded((size, self.action_space.width)),
            length=Bounded(0, size, shape=(), dtype=torch.int64),
            goal=Unbounded(frame),
        )

    @abstractmethod
    def embed(self, observation: Mapping[NestedKey, Tensor]) -> Tensor:
        """[..., N, D] tokens of the frame keys' observations."""

    @abstractmethod
    def predict_tokens(self, frames: Tensor, actions: Tensor, noise: Noise | None = None) -> Tensor:
        """[..., L, N, D] at each place the prediction of the next frame, from that place and those before it.

        Args:
            frames: [..., L, N, D], L ≤ H; actions: [..., L, A], leaving each frame.
            noise: of what is random in learning; None outside it.
        """

    @property
    def loss_keys(self) -> tuple[NestedKey, ...]:
        """The observations but not their goals, the previous action and "is_init"; no reward."""
        return (*self.frame_keys, *self.previous_action_keys, self.key_map.is_init)

    def embed_goal(self, observation: Observation) -> Tensor:
        """[..., N, D] tokens of what is to be reached."""
        return self.embed({key: observation[goal_key(key)] for key in self.frame_keys})

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        tokens = self.embed({key: observation[key] for key in self.frame_keys})
        window = first_frame(tokens, self.history, self.action_space.width)
        return latent_of(window, tokens, self.embed_goal(observation))

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        tokens = self.embed({key: observation[key] for key in self.frame_keys})
        # A carry of zeros, as after a random prefill, has seen nothing: it begins here, whatever is_init says.
        begins = is_init.squeeze(-1) | (previous["length"] == 0)
        goal = renewed_goal(previous["goal"], begins, lambda: self.embed_goal(observation))
        window = window_of(previous).leaving(previous_action).arriving(tokens)
        fresh = first_frame(tokens, self.history, self.action_space.width)
        return latent_of(choose(begins, fresh, window), tokens, goal)

    def discount(self, latent: Latent) -> Tensor:
        return latent["tokens"].new_full((1,), self.config.discount)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        window = window_of(latent).leaving(action)
        tokens = window.read(self.predict_tokens(window.frames, window.actions))
        arrived = latent_of(window.arriving(tokens), tokens, latent["goal"])
        reward = GoalReward(self.distance)(latent, arrived)
        return Prediction(arrived, reward, torch.ones_like(reward))


def window_of(latent: Latent) -> Window:
    """The latent's window, whose last frame is the latent's tokens."""
    return Window(latent["window"], latent["action_window"], latent["length"]).with_last(latent["tokens"])


def latent_of(window: Window, tokens: Tensor, goal: Tensor) -> Latent:
    """The latent's leaves."""
    return {
        "tokens": tokens, "window": window.frames, "action_window": window.actions, "length": window.length,
        "goal": goal,
    }  # fmt: skip


def renewed_goal(goal: Tensor, begins: Tensor, embed: Callable[[], Tensor]) -> Tensor:
    """[..., N, D] the goal kept, and encoded anew where an episode begins.

    A CPU encodes only if one begins. Elsewhere that question would wait for the device, and under torch.func it has no
    one answer, so it is not asked.
    """
    if begins.device.type == "cpu" and not transformed() and not begins.any():
        return goal
    return torch.where(begins[..., None, None], embed(), goal)


def loss_values(model: WorldModel, batch: TensorDictBase) -> dict[NestedKey, Tensor]:
    """What the model learns from, by key. Raises KeyError naming the first of `loss_keys` that the rows lack."""
    values: dict[NestedKey, Tensor] = {}
    for key in model.loss_keys:
        value = batch.get(key, None)
        if value is None:
            present = sorted(map(str, batch.keys(include_nested=True, leaves_only=True)))
            raise KeyError(f"{type(model).__name__} learns from the key {key!r}, but the rows hold {present}.")
        values[key] = value
    return values


def goal_key(key: NestedKey) -> tuple[str, ...]:
    """Where the goal of an observation key stands."""
    return (GOAL, *as_tuple(key))


def frame_keys(spec: Composite) -> tuple[NestedKey, ...]:
    """The observation keys that are not goals. Raises ValueError for a goal of what is not observed."""
    keys = list(spec.keys(include_nested=True, leaves_only=True))
    frames = [key for key in keys if as_tuple(key)[0] != GOAL]
    unknown = {as_tuple(key) for key in keys} - {as_tuple(key) for key in frames} - {goal_key(key) for key in frames}
    if unknown:
        raise ValueError(
            f"The observation spec has the goals {sorted(unknown)}, but observes only {frames}: a goal is an "
            f"observation to be reached, under ({GOAL!r}, key) for an observation key."
        )
    for key in frames:
        goal = goal_key(key)
        if goal in keys and spec[goal].shape != spec[key].shape:
            raise ValueError(f"The goal {goal} has shape {spec[goal].shape}, but {key!r} has {spec[key].shape}.")
    return tuple(frames)


def with_goals(spec: Composite, frames: tuple[NestedKey, ...]) -> Composite:
    """The spec with a goal for every observation key in `frames`."""
    known = {as_tuple(key) for key in spec.keys(include_nested=True, leaves_only=True)}
    missing = [key for key in frames if goal_key(key) not in known]
    if not missing:
        return spec
    whole: Composite = spec.clone()
    for key in missing:
        whole[goal_key(key)] = spec[key].clone()
    return whole
