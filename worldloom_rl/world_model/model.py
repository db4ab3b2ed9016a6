"""The world model as its users see it: verbs over tensordicts, imagination, how it learns and acts, and saving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from worldloom_rl.config import Json
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import imagine as imagination
from worldloom_rl.world_model.core import Latent, TensorCore
from worldloom_rl.world_model.imagine import Act, Dream
from worldloom_rl.world_model.verbs import CarryAction, Decode, Encode, Observe, ObserveAlone, Predict, Verb


class WorldModel(TensorCore):
    """A latent world model over TensorDicts; `model(td)` is `observe`. A family subclasses it and writes `TensorCore`.

    Args:
        config: the family's frozen dataclass.
        observation_spec: un-batched Composite; its leaves are what `encode` and `observe` read.
        action_spec: un-batched Composite; one or several action keys.
        key_map: other names for the keys of the contract, such as {"reward": ("my", "reward")}.
    """

    # ------------------------------------------------------------------ the verbs

    @property
    def encode(self) -> Verb:
        """Latent of an observation alone (for a recurrent model: one filter step from the initial latent)."""
        return Encode(self)

    @property
    def observe(self) -> Verb:
        """Posterior latent of this row. Under TorchRL's `set_recurrent_mode(True)` the last batch dimension is time."""
        return Observe(self) if self.recurrent else ObserveAlone(self)

    @property
    def carry_action(self) -> Verb:
        """The last step of an acting recurrent policy: hands the action on as the next row's previous action."""
        return CarryAction(self)

    @property
    def predict(self) -> Verb:
        """One step without observation: the next latent, the reward of arriving there, the probability of going on."""
        return Predict(self)

    @property
    def decode(self) -> Verb:
        """What is a function of the latent alone."""
        return Decode(self)

    @property
    def in_keys(self) -> list[NestedKey]:
        """What `observe` reads."""
        return self.observe.in_keys

    @property
    def out_keys(self) -> list[NestedKey]:
        """What `observe` writes at the root."""
        return list(self.latent_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.observe(tensordict)

    def features(self, tensordict: TensorDictBase) -> Tensor:
        """[..., F] flat view of the tensordict's latent for heads."""
        return self.latent_features(self.read_latent(tensordict))

    # ------------------------------------------------------------------ imagination

    def imagine(
        self,
        start: TensorDictBase,
        policy: TensorDictModuleBase | None = None,
        *,
        actions: Tensor | TensorDictBase | None = None,
        horizon: int | None = None,
        noise: Noise | None = None,
    ) -> TensorDict:
        """H imagined steps from start latents: the TensorDict [*B, H] of `ImaginationEnv(self).rollout(H, policy, …)`.

        At the root stand the latent and "continue" before each step, the action, the done flags (False) and, unchanged
        or as the policy carries them, the other entries of `start`; under "next" the latent, reward, "continue" and
        done flags after it. Root and "next" latents share memory. `start` is not written to, and gradients flow.

        Args:
            start: [*B] holds the latent.
            policy: reads the root, writes the action. A `LatentPolicy` is called on tensors, any other on a tensordict.
            actions: instead of a policy, either flat actions [*B, H, A], or a tensordict [*B, H] of the action keys.
            horizon: H; given actions bring their own.
            noise: source of random draws, in the order policy, prediction of every step; by default the model's.
        Raises ValueError for a horizon below 1, for neither or both of policy and actions, or for actions that do not
        fit; KeyError for a latent leaf or action key that is missing.
        """
        return imagination.imagine(self, start, policy, actions, horizon, self.noise if noise is None else noise)

    def dream(self, start: Latent, act: Act, horizon: int, noise: Noise) -> Dream:
        """What an actor-critic learns from in the steps of `imagine`, with the same draws and without gradient.

        A family whose reward and continuation are functions of the latent alone can ask them once for all steps.

        Args:
            start: latent [*B, …].
            act: [*B, A] flat actions from features [*B, F] and noise.
        """
        return imagination.dream(self, start, act, horizon, noise)

    # ------------------------------------------------------------------ how a family learns and acts, if it says so

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of every term of `compute_loss`, for `WorldModelLoss`."""
        raise NotImplementedError(f"{type(self).__name__} names no loss weights; give WorldModelLoss your own.")

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observation → latent → action, for any collector."""
        raise NotImplementedError(
            f"{type(self).__name__} has no policy of its own; put one together: TensorDictSequential(model.observe, "
            "an actor or a planner, model.carry_action)."
        )

    # ------------------------------------------------------------------ sizes, saving

    def num_parameters(self) -> int:
        """How many numbers are learned; target copies, which follow others, are not counted."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors; the directory appears whole or not at all."""
        from worldloom_rl.pretrained.format import save_world_model

        save_world_model(self, directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        result: Mapping[str, Json] | None = None,
    ) -> str:
        """The hash of the commit that holds the model on the hub, with a model card (README.md) written anew.

        Args:
            repo_id: "organization/name"; made if there is none.
            private: whether a new repository is; None leaves it to the organization.
            token: by default the one of `hf auth login` or of HF_TOKEN.
            revision: branch to push to, made if there is none; by default the main branch.
            result: contents of a run's result.json; the card then tells the return reached and how it was trained.
        Raises ValueError for a malformed name or result; PermissionError, ConnectionError for what the hub refuses.
        """
        from worldloom_rl.pretrained.hub import push_world_model

        return push_world_model(
            self, repo_id, private=private, token=token, revision=revision, commit_message=commit_message, result=result
        )

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path, *, encoder: nn.Module | None = None) -> Model:
        """The model in a directory. Raises TypeError if it is of another family; see `AutoWorldModel` otherwise.

        Args:
            encoder: the module that a model with a frozen encoder of your own was built with.
        """
        from worldloom_rl.pretrained.format import load_world_model

        model = load_world_model(directory, encoder)
        if not isinstance(model, cls):
            raise TypeError(f"{directory} holds a {type(model).__name__}, not a {cls.__name__}; use AutoWorldModel.")
        return model


Model = TypeVar("Model", bound=WorldModel)
