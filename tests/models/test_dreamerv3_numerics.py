"""bfloat16 under autocast against float32: the same forward pass, with the weights of a golden file."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config
from worldloom_rl.models.dreamerv3.official.names import load_official
from worldloom_rl.noise import GeneratorNoise

GOLDEN = Path(__file__).parents[1] / "reference" / "data" / "dreamerv3" / "golden_public_proprio.safetensors"


class SameClasses(GeneratorNoise):
    """Draws classes once and gives them again, so that rounding cannot turn one latent into another."""

    def __init__(self) -> None:
        super().__init__(torch.Generator().manual_seed(0))
        self.drawn: list[Tensor] = []
        self.again = 0

    def category(self, name: str, probabilities: Tensor) -> Tensor:
        if self.again == len(self.drawn):
            self.drawn.append(super().category(name, probabilities))
        self.again += 1
        return self.drawn[self.again - 1]


@pytest.fixture(scope="module")
def model() -> DreamerV3:
    with safe_open(GOLDEN, "pt") as content:
        metadata = content.metadata()
    sizes = ast.literal_eval(metadata["dims"])
    config = DreamerV3Config(
        deterministic=sizes["deter"], hidden=sizes["hidden"], groups=sizes["stoch"], classes=sizes["classes"],
        blocks=sizes["blocks"], units=sizes["units"], depth=sizes["depth"],
    )  # fmt: skip
    observation = Composite({key: Unbounded(shape) for key, shape in ast.literal_eval(metadata["obs_space_order"])})
    action = Bounded(-1.0, 1.0, (ast.literal_eval(metadata["action"])[1],))
    built = DreamerV3(config, observation, Composite(action=action))
    load_official(built, {n.removeprefix("param/"): x for n, x in load_file(GOLDEN).items() if n.startswith("param/")})
    return built


@torch.no_grad()
def forward(model: DreamerV3, noise: SameClasses, *, bfloat16: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = (16, 32)
    observation = {
        key: torch.randn(*batch, *leaf.shape, generator=generator) for key, leaf in model.observation_spec.items()
    }
    action = torch.rand(*batch, model.action_space.width, generator=generator) * 2 - 1
    is_init = torch.rand(*batch, 1, generator=generator) < 0.05
    noise.again = 0
    precision = torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    with precision:
        state = model.filter_sequence(model.initial_latent(batch[:1]), action, observation, is_init, noise)
        features = model.latent_features({"deterministic": state.deterministic, "stochastic": state.stochastic})
        critic = model.behavior.critic
        return {
            "KL": model.rssm.space.divergence(state.parameters, model.rssm.prior_parameters(state.deterministic)),
            "reward": model.reward_head.mean(model.reward_head(features)),
            "continue": torch.sigmoid(model.continue_head(features).float()),
            "value": critic.mean(critic(features)),
        }


@pytest.mark.parametrize("name", ["KL", "reward", "continue", "value"])
def test_bfloat16_agrees_with_float32_within_two_percent_of_the_spread(model: DreamerV3, name: str) -> None:
    noise = SameClasses()
    exact, rounded = forward(model, noise, bfloat16=False)[name], forward(model, noise, bfloat16=True)[name]
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    spread = exact.max() - exact.min()
    assert (rounded - exact).abs().max() < 0.02 * spread
