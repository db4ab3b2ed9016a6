"""The policy prior acts by the draws and the numbers of its sample, bit for bit, without the entropies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.pretrained.registry import find_preset

BOX, CLASSES = Bounded(-2.0, 1.0, shape=(3,), dtype=torch.float32), OneHot(4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "leaves", [{"action": BOX}, {"action": CLASSES}, {"a": BOX, "b": CLASSES}], ids=["real", "discrete", "mixed"]
)
def test_the_action_and_the_mode_are_those_of_the_sample(leaves: dict[str, TensorSpec], masked: bool) -> None:
    torch.manual_seed(0)
    config = find_preset("tdmpc2:tiny")[1]
    model = TDMPC2(config, Composite(observation=Unbounded((5,))), Composite(leaves))  # type: ignore[arg-type]
    nn.init.normal_(model.behavior.policy[-1].weight)
    if masked and not model.action_space.is_continuous:
        pytest.skip("several tasks need continuous actions")
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(6, 3) if masked else None
    latent = model.encode_latent({"observation": torch.randn(6, 5)}, model.noise)
    features = model.latent_features(latent)
    sources = [GeneratorNoise(torch.Generator().manual_seed(3)) for _ in range(3)]
    sample = model.behavior.sample(features, mask, sources[0])
    assert torch.equal(model.behavior.act(features, mask, sources[1]), sample.action)
    assert torch.equal(model.behavior.act(features, mask, sources[2], mode=True), sample.mode)
    states = [source.generator.get_state() for source in sources]  # type: ignore[union-attr]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    if mask is None:
        for kind, mode in ((ExplorationType.RANDOM, False), (ExplorationType.MODE, True)):
            with set_exploration_type(kind):
                action = model.make_actor().act(latent, GeneratorNoise(torch.Generator().manual_seed(3)))
            assert torch.equal(action, sample.mode if mode else sample.action)


def test_its_gradient_is_that_of_the_sample() -> None:
    torch.manual_seed(0)
    config = replace(find_preset("tdmpc2:tiny")[1], mlp_dim=16)  # type: ignore[type-var]
    model = TDMPC2(config, Composite(observation=Unbounded((5,))), Composite(action=BOX))  # type: ignore[arg-type]
    features, weight = torch.rand(4, config.latent_dim), model.behavior.policy[0].weight  # type: ignore[attr-defined]
    gradients = []
    for act in (model.behavior.act, lambda *given: model.behavior.sample(*given).action):
        noise = GeneratorNoise(torch.Generator().manual_seed(3))
        gradients.append(torch.autograd.grad(act(features, None, noise).sum(), weight)[0])
    assert torch.equal(*gradients)
