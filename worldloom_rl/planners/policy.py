"""A plan as a TorchRL policy: it carries the warm start from step to step and executes what was planned."""

from __future__ import annotations

from typing import Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, exploration_type

from worldloom_rl.keys import PLANNER_ELITES, PLANNER_LEFT, PLANNER_MEAN, PLANNER_SEQUENCE
from worldloom_rl.noise import Noise
from worldloom_rl.planners.distribution import SequenceDistribution
from worldloom_rl.planners.options import PlanOptions
from worldloom_rl.planners.plan import Plan
from worldloom_rl.world_model import Latent, WorldModel

Carried = dict[tuple[str, str], Tensor]  # by key, [B, …]


class PlanFunction(Protocol):
    """A way of planning for B environments at once; `planners.plan.plan` with its functions given is one."""

    def __call__(
        self,
        model: WorldModel,
        latent: Latent,
        previous_mean: Tensor,
        distribution: SequenceDistribution,
        noise: Noise,
        /,
        *,
        explore: bool,
    ) -> Plan:
        """The plan, whose mean [B, H, A] comes back as `previous_mean`.

        With `carry_elites` it takes `previous_elites` [B, S, H, A] as well, the elites of its last plan.
        """


class Planner(TensorDictModuleBase):  # type: ignore[misc]
    """A policy that plans at every step, or whenever it has executed `options.execute` actions of a plan.

    It reads the latent, "is_init" and the warm start ("planner", "mean"), and writes the action and the warm start,
    which the environment carries: `make_tensordict_primer` gives the transform, and
    `Collector(env, policy, auto_register_policy_transforms=True)` adds it by itself. The warm start is forgotten, per
    environment, where "is_init" is set. ExplorationType.RANDOM explores; every other type plans without action noise.

    Args:
        model: any world model.
        plan_function: how it plans. To be copied with the model, and to reach the processes of a collector, it is a
            function of a module or a partial of one, not a closure.
        noise: source of random draws; by default the model's.
    """

    def __init__(
        self, model: WorldModel, options: PlanOptions, plan_function: PlanFunction, *, noise: Noise | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.plan_function = plan_function
        self.distribution = SequenceDistribution(options, model.action_space)
        self.noise = noise
        self._carried: list[tuple[str, str]] = [PLANNER_MEAN]
        if options.carry_elites:
            self._carried += [PLANNER_ELITES]
        if options.execute > 1:
            self._carried += [PLANNER_SEQUENCE, PLANNER_LEFT]
        self.in_keys: list[NestedKey] = [*model.latent_keys, model.key_map.is_init, *self._carried]
        self.out_keys: list[NestedKey] = [
            *model.action_keys, *self._carried, *(("next", *key) for key in self._carried),
        ]  # fmt: skip

    @property
    def horizon(self) -> int:
        """H, actions of a plan."""
        return self.options.horizon

    @property
    def execute(self) -> int:
        """E, actions of a plan that are executed before the next one is made."""
        return self.options.execute

    @property
    def init_mean(self) -> Tensor:
        """[A] the mean of a fresh start."""
        return self.distribution.init_mean

    @property
    def carried_spec(self) -> Composite:
        """What is carried from step to step by each environment: the warm start, and what is left of a plan."""
        width = self.model.action_space.width
        leaves = Composite({PLANNER_MEAN: Unbounded((self.horizon, width))})
        if self.options.carry_elites:
            leaves[PLANNER_ELITES] = Unbounded((self.options.carry_elites, self.horizon, width))
        if self.execute > 1:
            leaves[PLANNER_SEQUENCE] = Unbounded((self.execute, width))
            leaves[PLANNER_LEFT] = Unbounded((1,), dtype=torch.int64)
        return leaves

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for what is carried."""
        return TensorDictPrimer(self.carried_spec, default_value=0, expand_specs=True)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model, batch = self.model, tensordict.batch_size
        latent = model.read_latent(tensordict)
        self._move_to(next(iter(latent.values())).device)
        flat = {name: value.reshape(batch.numel(), *value.shape[len(batch) :]) for name, value in latent.items()}
        is_init, carried = self._read_carried(tensordict)
        explore = exploration_type() is ExplorationType.RANDOM
        action, carried = self.act(flat, carried, is_init, self.noise or model.noise, explore=explore)
        model.write_action(tensordict, action.reshape(*batch, action.shape[-1]))
        for key, value in carried.items():
            shaped = value.reshape(*batch, *value.shape[1:])
            tensordict.set(key, shaped).set(("next", *key), shaped)
        return tensordict

    def act(
        self, latent: Latent, carried: Carried, is_init: Tensor, noise: Noise, *, explore: bool
    ) -> tuple[Tensor, Carried]:
        """[B, A] the next action of each environment, and what each carries to its next one.

        Args:
            latent: leaves [B, …].
            carried: [B, …] by key of `carried_spec`; it does not count where `is_init`, of B numbers, is set.
        """
        fresh, mean = is_init.reshape(-1, 1, 1), carried[PLANNER_MEAN]
        carried = {**carried, PLANNER_MEAN: torch.where(fresh, self.init_mean.expand_as(mean), mean)}
        if PLANNER_ELITES in carried:
            carried[PLANNER_ELITES] = carried[PLANNER_ELITES].masked_fill(fresh.unsqueeze(-1), torch.nan)
        if self.execute == 1:
            return self._plan_anew(latent, carried, noise, explore)
        carried[PLANNER_LEFT] = carried[PLANNER_LEFT].masked_fill(is_init.reshape(-1, 1), 0)
        return self._go_on(latent, carried, noise, explore)

    def plan(
        self,
        latent: Latent,
        previous_mean: Tensor,
        noise: Noise,
        *,
        explore: bool,
        previous_elites: Tensor | None = None,
    ) -> Plan:
        """The plan for latents [B, …], the previous plan's mean being [B, H, A]; see `planners.plan.plan`."""
        self._move_to(previous_mean.device)
        elites = {} if previous_elites is None else {"previous_elites": previous_elites}
        return self.plan_function(
            self.model, latent, previous_mean, self.distribution, noise, explore=explore, **elites
        )

    def _plan_anew(self, latent: Latent, carried: Carried, noise: Noise, explore: bool) -> tuple[Tensor, Carried]:
        """[B, A] the first action of a new plan for each, and what is carried."""
        elites = carried.get(PLANNER_ELITES)
        plan = self.plan(latent, carried[PLANNER_MEAN], noise, explore=explore, previous_elites=elites)
        kept = {PLANNER_MEAN: plan.mean}
        if plan.elites is not None:
            kept[PLANNER_ELITES] = plan.elites
        if self.execute > 1:
            kept[PLANNER_SEQUENCE] = plan.sequence
            kept[PLANNER_LEFT] = torch.full_like(carried[PLANNER_LEFT], self.execute)
        return plan.action, kept

    def _go_on(self, latent: Latent, carried: Carried, noise: Noise, explore: bool) -> tuple[Tensor, Carried]:
        """[B, A] the next action of each plan and what is carried; a plan that is used up is made anew."""
        due = (carried[PLANNER_LEFT] == 0).nonzero()[:, 0]
        if len(due):
            start = {name: value.index_select(0, due) for name, value in latent.items()}
            before = {key: value.index_select(0, due) for key, value in carried.items()}
            _, made = self._plan_anew(start, before, noise, explore)
            carried = {key: value.index_copy(0, due, made[key]) for key, value in carried.items()}
        left = carried[PLANNER_LEFT]
        action = carried[PLANNER_SEQUENCE].take_along_dim((self.execute - left).unsqueeze(-1), 1).squeeze(1)
        return action, {**carried, PLANNER_LEFT: left - 1}

    def _read_carried(self, tensordict: TensorDictBase) -> tuple[Tensor, Carried]:
        """Where episodes begin, and what the environment carries, with one batch dimension.

        Raises KeyError for what is missing, ValueError for the warm start of another planner.
        """
        batch, is_init_key = tensordict.batch_size, self.model.key_map.is_init
        is_init = tensordict.get(is_init_key, None)
        carried = [tensordict.get(key, None) for key in self._carried]
        if is_init is None or any(value is None for value in carried):
            raise KeyError(
                f"Planning needs {self._carried} and {is_init_key!r} in the tensordict, which holds "
                f"{sorted(map(str, tensordict.keys(True, True)))}. Collect with auto_register_policy_transforms=True, "
                "or append InitTracker() and planner.make_tensordict_primer() to the environment."
            )
        expected = (*batch, self.horizon, self.model.action_space.width)
        if carried[0].shape != expected:
            raise ValueError(
                f"The warm start {PLANNER_MEAN} has shape {tuple(carried[0].shape)}, but this planner needs "
                f"{expected}; build the environment's primer with planner.make_tensordict_primer()."
            )
        flat = [value.reshape(batch.numel(), *value.shape[len(batch) :]) for value in carried]
        return is_init, dict(zip(self._carried, flat, strict=True))

    def _move_to(self, device: torch.device) -> None:
        """To the device of what is planned for, where the model alone was moved."""
        if self.init_mean.device != device:
            self.to(device)
