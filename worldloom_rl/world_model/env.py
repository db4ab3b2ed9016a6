"""Imagination as a TorchRL environment: a world model's latent is its state, `predict` its step.

`WorldModel.imagine` is the fused loop that packs the same tensordict as `ImaginationEnv(model).rollout`.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import ModelBasedEnvBase

from worldloom_rl.functional.precision import precise
from worldloom_rl.keys import DONE, TERMINATED, TRUNCATED
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.world_model.core import RewardFunction
from worldloom_rl.world_model.model import WorldModel

_ENDED_BELOW = 0.5  # hard termination: an episode ends where its probability of going on falls below this


class ImaginationEnv(ModelBasedEnvBase):  # type: ignore[misc]  # torchrl is untyped
    """An environment whose steps are predictions of a world model, from any batch of start latents.

    One instance serves every batch shape: specs have no batch dimensions and the output is sized by the input. The
    latent's leaves stand under the model's latent key in `observation_spec` and `state_spec`, beside "continue", the
    probability [1] that the episode goes on; rewards and done flags are [1]. Gradients flow through every step.

        env = ImaginationEnv(model)
        start = posterior.select("latent").detach()
        imagined = env.rollout(15, policy, tensordict=start.clone(), set_state=True)  # [*start.batch_size, 15]

    `rollout` writes into the tensordict it is given (`WorldModel.imagine` does not). A start latent is kept bit for
    bit, whatever `set_state` says; `reset` without one starts from the model's initial latent.
    Observations are not decoded on the way: apply `model.decode` to the result.

    A row that ends never shortens, resets or stops the batch, also inside a `TransformedEnv`: "done" stands under
    "next", where returns read it, and is False again at the next step's root, as after TorchRL's own resets. A
    truncation that a transform adds, such as `StepCounter(max_steps)`, keeps its usual effect.

    Args:
        model: any world model.
        hard_termination: False leaves "done" False, and termination travels as the soft "continue". True makes
            "continue" 1 until the predicted probability, a learned discount left out, falls below 0.5, and 0 from there
            on; ("next", "terminated") and ("next", "done") are its complement.
        reward: of the latents before and after a step, [..., 1], in place of the predicted reward; a `GoalReward` for
            example.
    """

    _supports_set_state = True

    def __init__(
        self, model: WorldModel, *, hard_termination: bool = False, reward: RewardFunction | None = None
    ) -> None:
        super().__init__(model, device=None, batch_size=torch.Size([]))
        self.hard_termination = hard_termination
        self.reward_function = reward
        names = model.key_map
        observation_spec = _latent_spec(model)
        observation_spec[names.continuation] = Bounded(0.0, 1.0, shape=(1,), dtype=precise(model.dtype))
        reward_spec = Composite()
        reward_spec[names.reward] = Unbounded((1,), dtype=precise(model.dtype))
        flag = Binary(shape=(1,), dtype=torch.bool)
        self.observation_spec = observation_spec
        self.state_spec = _latent_spec(model)
        self.action_spec = model.action_spec.clone()
        self.reward_spec = reward_spec
        self.done_spec = Composite({DONE: flag, TERMINATED: flag.clone()})

    @property
    def model(self) -> WorldModel:
        """The world model whose predictions are the steps."""
        model: WorldModel = self.world_model
        return model

    def reset(
        self, tensordict: TensorDictBase | None = None, *, set_state: bool | None = None, **kwargs: object
    ) -> TensorDictBase:
        """As `EnvBase.reset`; a latent in the tensordict is the state to start from, whatever `set_state` says.

        TorchRL warns today that it will ignore such a state, which would imagine from nothing.
        """
        set_state = set_state or self._holds_latent(tensordict)
        out: TensorDictBase = super().reset(tensordict, set_state=set_state, **kwargs)
        return out

    def _reset(
        self, tensordict: TensorDictBase | None = None, *, set_state: bool | None = None, **kwargs: object
    ) -> TensorDictBase:
        model = self.model
        batch = torch.Size([]) if tensordict is None else tensordict.batch_size
        starts_anew = tensordict is None or not (set_state or self._holds_latent(tensordict))
        latent = model.initial_latent(batch) if starts_anew else model.read_latent(tensordict)
        continuation = model.continuation(latent)
        if self.hard_termination:
            continuation = self._alive(continuation)
        out = model.write_latent(TensorDict({}, batch_size=batch, device=_device_of(tensordict)), latent)
        out.set(model.key_map.continuation, continuation)
        return self._write_done(out, torch.zeros_like(continuation, dtype=torch.bool))

    def _holds_latent(self, tensordict: TensorDictBase | None) -> bool:
        """Whether any leaf of the latent is there; one that is missing beside it is an error of `_reset`."""
        return tensordict is not None and any(tensordict.get(key, None) is not None for key in self.model.latent_keys)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.model
        before = model.read_latent(tensordict)
        latent, reward, continuation = model.predict_latent(before, model.read_action(tensordict), model.noise)
        if self.reward_function is not None:
            reward = self.reward_function(before, latent)
        if self.hard_termination:
            continuation = self._alive(continuation) * tensordict.get(model.key_map.continuation)
            ended = continuation == 0
        else:
            ended = torch.zeros_like(continuation, dtype=torch.bool)
        out = TensorDict({}, batch_size=tensordict.batch_size, device=tensordict.device)
        model.write_latent(out, latent).set(model.key_map.reward, reward)
        out.set(model.key_map.continuation, continuation)
        return self._write_done(out, ended)

    def _alive(self, continuation: Tensor) -> Tensor:
        """1 where the episode is taken to go on, 0 where it ends."""
        return (continuation / self.model.learned_discount >= _ENDED_BELOW).to(continuation.dtype)

    @staticmethod
    def _write_done(out: TensorDictBase, ended: Tensor) -> TensorDictBase:
        return out.set(DONE, ended).set(TERMINATED, ended.clone())

    def any_done(self, tensordict: TensorDictBase) -> bool:
        """False: a row that ended is imagined on beside the others, never reset."""
        return False

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The tensordict unchanged; a bare start latent, without done flags, is completed as `reset` would."""
        if tensordict.get(DONE, None) is None:
            return self.reset(tensordict, set_state=True)
        return tensordict

    def _post_step_mdp_hooks(
        self, tensordict: TensorDictBase, tensordict_: TensorDictBase
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Clears the done flags at the next step's root, where rollouts, collectors and `TransformedEnv` look for them.

        This is the one place that TorchRL asks of the base environment also under a `TransformedEnv`, whose own
        `any_done` and early stop ignore the overrides above. Truncation, which only a transform writes, stays.
        """
        if self.hard_termination:
            terminated = tensordict_.get(TERMINATED)
            truncated = tensordict_.get(TRUNCATED, None)
            tensordict_.set(TERMINATED, torch.zeros_like(terminated))
            tensordict_.set(DONE, torch.zeros_like(terminated) if truncated is None else truncated.clone())
        return tensordict, tensordict_

    def _set_seed(self, seed: int | None) -> None:
        """Seeds the generator that the model's noise draws from: its own, else torch's global one."""
        if seed is None or not isinstance(self.model.noise, GeneratorNoise):
            return
        generator = self.model.noise.generator
        if generator is None:
            torch.manual_seed(seed)
        else:
            generator.manual_seed(seed)


def _latent_spec(model: WorldModel) -> Composite:
    """The latent's leaves under the model's key for it."""
    spec = Composite()
    for name, leaf in model.latent_spec.items():
        spec[model.key_map.leaf(name)] = leaf.clone()
    return spec


def _device_of(tensordict: TensorDictBase | None) -> torch.device | None:
    return None if tensordict is None else tensordict.device
