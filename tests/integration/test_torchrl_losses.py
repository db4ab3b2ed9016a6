"""TorchRL's losses over every family: in its imagination, and with its verbs inside the networks of the loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule, TensorDictModuleBase
from tensordict.nn import TensorDictSequential as Sequential
from torch import nn
from torchrl.data import Categorical, TensorSpec
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, QValueActor, TanhNormal
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteSACLoss,
    DQNLoss,
    IQLLoss,
    KLPENPPOLoss,
    LossModule,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    TD3Loss,
)  # fmt: skip
from torchrl.objectives.value import GAE

from worldloom_rl import WorldModel, list_world_models
from worldloom_rl.pretrained.registry import find_preset

FAMILIES = [name.partition(":")[0] for name in list_world_models("*:tiny")]
BATCH, HORIZON = 3, 2


class Features(TensorDictModuleBase):
    """The model's features of the latent, as a step of a network."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.in_keys, self.out_keys = list(model.latent_keys), ["features"]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("features", self.model.features(tensordict))


class Beside(nn.Module):
    """A layer of two inputs."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()  # CrossQ asks for one

    def forward(self, features: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([features, action.to(features.dtype)], -1)
        return self.layer(self.norm(x.flatten(0, -2)).reshape(x.shape))


class Case:
    """A family, rows [B, H] with its latents, and networks that begin with the observation or the latent."""

    def __init__(self, family: str, inside: str) -> None:
        self.family, self.inside = family, inside
        torch.manual_seed(0)
        found, config = find_preset(f"{family}:tiny")
        observation, action = found.model_class.default_specs()
        self.model: WorldModel = found.model_class(config, observation, action).eval()
        self.discrete = isinstance(action["action"], Categorical)
        self.count = action["action"].n if self.discrete else action["action"].shape[-1]
        start = self.model.encode(self.model.observation_spec.rand(torch.Size([BATCH]))).detach()
        actions = self.model.action_spec.rand(torch.Size([BATCH, HORIZON]))
        self.rows = self.model.imagine(start, actions=actions).detach()
        self.width = self.model.features(start).shape[-1]
        if inside == "encode":
            for place in (self.rows, self.rows["next"]):
                place.update(self.model.observation_spec.rand(torch.Size([BATCH, HORIZON])))

    def sees(self) -> list[TensorDictModuleBase]:
        """What stands before a head: features of the latent, which the model reads in the rows or infers."""
        verbs = {"latent": [], "encode": [self.model.encode]}[self.inside]
        return [*verbs, Features(self.model)]

    def head(self, outputs: int, key: str, *more: nn.Module) -> TensorDictModule:
        return TensorDictModule(nn.Sequential(nn.Linear(self.width, outputs), *more), ["features"], [key])

    @property
    def action_leaf(self) -> TensorSpec:
        return self.model.action_spec["action"]

    def actor(self) -> ProbabilisticActor:
        if self.discrete:
            network = Sequential(*self.sees(), self.head(self.count, "logits"))
            return ProbabilisticActor(
                network, in_keys=["logits"], spec=self.action_leaf, distribution_class=torch.distributions.Categorical,
                return_log_prob=True, default_interaction_type=InteractionType.RANDOM,
            )  # fmt: skip
        split = TensorDictModule(
            nn.Sequential(nn.Linear(self.width, 2 * self.count), NormalParamExtractor()), ["features"], ["loc", "scale"]
        )
        leaf = self.action_leaf
        return ProbabilisticActor(
            Sequential(*self.sees(), split), in_keys=["loc", "scale"], spec=leaf, distribution_class=TanhNormal,
            distribution_kwargs={"low": leaf.space.low, "high": leaf.space.high}, return_log_prob=True,
            default_interaction_type=InteractionType.RANDOM,
        )  # fmt: skip

    def deterministic(self) -> Sequential:
        return Sequential(*self.sees(), self.head(self.count, "action", nn.Tanh()))

    def value(self) -> Sequential:
        return Sequential(*self.sees(), self.head(1, "state_value"))

    def q(self, *, norm: bool = False) -> Sequential:
        beside = Beside(self.width + self.count, norm=norm)
        return Sequential(*self.sees(), TensorDictModule(beside, ["features", "action"], ["state_action_value"]))

    def q_of_every_action(self) -> Sequential:
        return Sequential(*self.sees(), self.head(self.count, "action_value"))

    def with_advantage(self, value: TensorDictModuleBase) -> TensorDict:
        rows = self.rows.clone()
        with torch.no_grad():
            rows = self.actor()(rows)
            GAE(gamma=0.99, lmbda=0.95, value_network=value)(rows)
        return rows


@cache
def case(family: str, inside: str) -> Case:
    return Case(family, inside)


def on_policy(make: Callable[..., LossModule]) -> Callable[[Case], tuple[LossModule, TensorDict]]:
    def made(case: Case) -> tuple[LossModule, TensorDict]:
        value = case.value()
        return make(case.actor(), value), case.with_advantage(value)

    return made


def off_policy(
    make: Callable[[Case], LossModule], *, log_prob: bool = False
) -> Callable[[Case], tuple[LossModule, TensorDict]]:
    def made(case: Case) -> tuple[LossModule, TensorDict]:
        return make(case), case.rows.clone().flatten(0, 1)

    return made


LOSSES: dict[str, tuple[str, Callable[[Case], tuple[LossModule, TensorDict]]]] = {  # with the actions that it takes
    "ClipPPO": ("any", on_policy(ClipPPOLoss)),
    "KLPENPPO": ("any", on_policy(KLPENPPOLoss)),
    "A2C": ("any", on_policy(A2CLoss)),
    "REINFORCE": ("any", on_policy(ReinforceLoss)),
    "SAC": ("real", off_policy(lambda case: SACLoss(case.actor(), case.q()))),
    "REDQ": ("real", off_policy(lambda case: REDQLoss(case.actor(), case.q(), num_qvalue_nets=3, sub_sample_len=2))),
    "CrossQ": ("real", off_policy(lambda case: CrossQLoss(case.actor(), case.q(norm=True)))),
    "TD3": ("real", off_policy(lambda case: TD3Loss(case.deterministic(), case.q(), action_spec=case.action_leaf))),
    "DDPG": ("real", off_policy(lambda case: DDPGLoss(case.deterministic(), case.q()))),
    "IQL": ("real", off_policy(lambda case: IQLLoss(case.actor(), case.q(), value_network=case.value()))),
    "DQN": (
        "classes",
        off_policy(
            lambda case: DQNLoss(QValueActor(case.q_of_every_action(), spec=case.action_leaf), delay_value=True)
        ),
    ),
    "DiscreteSAC": (
        "classes",
        off_policy(
            lambda case: DiscreteSACLoss(
                case.actor(), case.q_of_every_action(), action_space="categorical", num_actions=case.count
            )
        ),
    ),
}


@pytest.mark.filterwarnings("ignore")  # TorchRL's own, of what it will change
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("inside", ["latent", "encode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_learns(family: str, inside: str, loss: str) -> None:
    known = case(family, inside)
    actions, make = LOSSES[loss]
    if actions not in ("any", "classes" if known.discrete else "real"):
        pytest.skip(f"{loss} does not take the actions of {family}")
    torch.manual_seed(0)
    module, rows = make(known)
    losses = module(rows)
    terms = [value.mean() for name, value in losses.items() if name.startswith("loss")]
    assert terms
    sum(terms).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
