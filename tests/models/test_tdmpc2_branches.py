"""Steps that share their latent: the numbers of steps that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.models.tdmpc2.encoder import Encoder
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.world_model import repeat_latent


def test_a_perceptron_with_shared_inputs_is_the_perceptron_of_all_inputs() -> None:
    torch.manual_seed(0)
    network, shared, own = MLP(7, [16, 16], 3), torch.randn(2, 5), torch.randn(2, 4, 2)
    beside = torch.cat([shared.unsqueeze(1).expand(-1, 4, -1), own], -1)
    torch.testing.assert_close(network(own, shared), network(beside), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"episodic": True}, {"action_dims": (6, 3), "task_dim": 8}], ids=["plain", "episodic", "tasks"]
)
def test_branches_from_a_latent_are_single_predictions(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = find_preset("tdmpc2:tiny")[1]
    assert isinstance(config, TDMPC2Config)
    observation_spec = Composite(observation=Unbounded((5,)))
    if "action_dims" in changes:
        observation_spec["task"] = Categorical(2, shape=(), dtype=torch.int64)
    model = TDMPC2(replace(config, **changes), observation_spec, Composite(action=Bounded(-1.0, 1.0, shape=(6,))))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.reward_head[-1].weight)  # starts at zero
    latent = model.initial_latent((2,))
    latent["deterministic"] = model.simnorm.mode(torch.randn(2, 64))
    if "task" in latent:
        latent["task"] = torch.tensor([0, 1])
    action = torch.rand(2, 4, 6) * 2 - 1
    branches = model.predict_branches(latent, action, model.noise)
    single = model.predict_latent(repeat_latent(latent, 4), action, model.noise)
    assert branches.latent.keys() == single.latent.keys()
    for name in single.latent:
        torch.testing.assert_close(branches.latent[name], single.latent[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(branches.reward, single.reward, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(branches.continuation, single.continuation, rtol=1e-5, atol=1e-6)
    assert single.reward.unique().numel() == 8


@pytest.mark.parametrize("preset", ["tiny", "1m", "5m", "19m", "48m", "317m"])
def test_every_preset_reads_an_image_beside_a_vector(preset: str) -> None:
    config = find_preset(f"tdmpc2:{preset}")[1]
    assert isinstance(config, TDMPC2Config)
    branches: tuple[list[Any], int, dict[Any, int]] = ["place"], 2, {"image": 3}
    with torch.device("meta"):
        encoder = Encoder(config, *branches)
    width = config.latent_dim // 2
    assert [leaf.out_channels * 16 for leaf in encoder.modules() if isinstance(leaf, torch.nn.Conv2d)] == [width] * 4
    with pytest.raises(ValueError, match=rf"--overrides num_channels={width // 16}"):
        Encoder(replace(config, num_channels=config.num_channels + 1), *branches)
