"""What an actor-critic learns from, imagined in the way of many rows or of few, against `imagine`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, OneHot, Unbounded

from worldloom_rl.kernels.wide_block_linear import MANY_ROWS
from worldloom_rl.keys import POLICY_ACTION
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.dreamerv3.config import PRESETS, DreamerV3Config
from worldloom_rl.models.dreamerv3.fast.imagination import can_imagine_fast
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.world_model import WorldModel


def build(**numbers: object) -> DreamerV3:
    torch.manual_seed(0)
    sizes = {"deterministic": 32, "hidden": 6, "groups": 3, "classes": 4, "blocks": 4, "units": 8}
    config = replace(PRESETS["tiny"], **{**sizes, **numbers})
    assert isinstance(config, DreamerV3Config)
    action = Composite(action=Bounded(-1.0, 1.0, (2,)), choice=OneHot(3))
    model = DreamerV3(config, Composite(observation=Unbounded((5,))), action)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        # The outer bins lie at ±4.9e8: what rounding leaves of their weights would drown every other reward.
        model.reward_head.output.bias[model.reward_head.bins.abs() > 1.0] = -100.0
    return model.eval()


@pytest.mark.parametrize(
    ("shape", "numbers", "fast"),
    [
        ((MANY_ROWS - 1,), {}, False),
        ((MANY_ROWS,), {}, True),
        ((20, 30), {}, True),  # rows of one block in several pieces
        ((300,), {"prior_layers": 1}, True),
        ((300,), {"latent": "gaussian"}, False),
    ],
)
def test_features_imagined_for_an_actor_critic_are_those_of_imagine(
    shape: tuple[int, ...], numbers: dict[str, object], fast: bool
) -> None:
    model = build(**numbers)
    policy = ActorPolicy(model, model.behavior.actor, sample_always=True)
    # Starts need not be one-hot, as an initial latent's zeros.
    latent = {name: torch.randn(*shape, *leaf.shape) for name, leaf in model.latent_spec.items()}
    assert can_imagine_fast(model.rssm.space, model.rssm.prior, latent["deterministic"]) == fast

    def noise() -> GeneratorNoise:
        return GeneratorNoise(torch.Generator().manual_seed(2))

    ours = model.dream(latent, policy.act_on, 3, noise())
    generic = WorldModel.dream(model, latent, policy.act_on, 3, noise())
    with torch.no_grad():
        start = model.write_latent(TensorDict({}, shape), latent)
        expected = model.imagine(start, policy, horizon=3, noise=noise())
    arrived, time = expected["next"], len(shape)
    for imagined in (ours, generic):
        pairs = [
            (imagined.features[:-1], model.features(expected).movedim(time, 0)),
            (imagined.features[-1], model.features(arrived).select(time, -1)),
            (imagined.action, expected[POLICY_ACTION].movedim(time, 0)),
            (imagined.reward, arrived["reward"].movedim(time, 0)),
            (imagined.continuation[1:], arrived["continue"].movedim(time, 0)),
        ]
        for value, other in pairs:
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)
        if imagined is generic or not fast:
            assert all(torch.equal(*pair) for pair in pairs)
