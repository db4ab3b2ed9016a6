"""A JEPA over a frozen encoder: what is learned, what is frozen, and how it is saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Composite, Unbounded

from worldloom_rl import AutoWorldModel
from worldloom_rl.models.frozen_jepa import FrozenJEPA, FrozenJEPAConfig, make_planner
from worldloom_rl.models.frozen_jepa.config import PRESETS
from worldloom_rl.models.frozen_jepa.encoders import build_transformers
from worldloom_rl.models.frozen_jepa.transformers_text import KINDS
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.testing import check_world_model

transformers = pytest.importorskip("transformers")

TINY = PRESETS["tiny"]


class Patches(nn.Module):
    """A frozen encoder of one's own: 4 x 4 patches, with a batch norm that would learn in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.patches(image)).flatten(2).mT


def own(encoder: nn.Module, **changes: object) -> FrozenJEPA:
    small = {
        name: getattr(TINY, name) for name in ("vector_dim", "action_dim", "layers", "heads", "head_dim", "mlp_dim")
    }
    config = FrozenJEPAConfig.of_encoder(encoder, image_size=16, **{**small, "dropout": 0.0, **changes})
    return FrozenJEPA(config, *FrozenJEPA.default_specs(), encoder=encoder)


def rows(model: FrozenJEPA, batch: int, time: int) -> TensorDict:
    rows = model.observation_spec.rand((batch, time)).to_tensordict()
    rows.batch_size = [batch, time]
    rows["previous_action"] = model.action_spec.rand((batch, time))["action"]
    rows["is_init"] = torch.zeros(batch, time, 1, dtype=torch.bool)
    return rows


def outcome(model: FrozenJEPA, observation: TensorDict) -> TensorDict:
    with torch.no_grad():
        return model.predict(model.encode(observation.clone())).select("latent", "reward")


def same(left: TensorDict, right: TensorDict) -> bool:
    return all(torch.equal(left[key], right[key]) for key in left.keys(True, True))


def test_a_model_of_transformers_is_saved_with_its_configuration_as_json(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = transformers.Dinov2Model(transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=8
    ))  # fmt: skip
    config = FrozenJEPAConfig.of_encoder(
        encoder, image_size=16, num_tokens=4, layers=1, heads=2, head_dim=8, mlp_dim=16
    )
    assert json.loads(config.transformers)["model_type"] == "dinov2"
    model = FrozenJEPA(config, *FrozenJEPA.default_specs(), encoder=encoder).eval()
    model.save_pretrained(tmp_path)
    observation = rows(model, 3, 1)[:, 0].update(model.action_spec.rand((3,)))
    assert same(outcome(AutoWorldModel.from_pretrained(tmp_path).eval(), observation), outcome(model, observation))
    # The tokens are those of the patches: the class token, which comes first, is left out.
    image = torch.rand(2, 3, 16, 16)
    given = encoder.eval()((image - model.pixel_mean) / model.pixel_std).last_hidden_state
    torch.testing.assert_close(model.see(image), given[:, 1:])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_transformers_encoder_is_built_from_its_description(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = {**sizes, "image_size": 16, "patch_size": 8}
    encoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    config = FrozenJEPAConfig.of_encoder(encoder, image_size=16, layers=1, heads=2, head_dim=8, mlp_dim=16)
    assert (config.num_tokens, config.token_dim) == (4, 24)
    assert json.loads(config.transformers)["model_type"] == kind
    again = build_transformers(config.transformers).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(image).last_hidden_state, encoder(image).last_hidden_state)


def test_another_model_of_transformers_is_a_module_of_ones_own() -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    encoder = transformers.ResNetModel(transformers.ResNetConfig(**sizes)).eval()

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, image: Tensor) -> Tensor:
            return self.encoder(image).last_hidden_state.flatten(2).mT

    config = FrozenJEPAConfig.of_encoder(Tokens(), image_size=16)
    assert (config.transformers, config.token_dim) == ("", 12)


def test_a_module_of_ones_own_is_passed_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own(Patches()).eval()
    model.save_pretrained(tmp_path)
    observation = rows(model, 3, 1)[:, 0].update(model.action_spec.rand((3,)))
    other = Patches()
    for load in (AutoWorldModel.from_pretrained, FrozenJEPA.from_pretrained):
        loaded = load(tmp_path, encoder=other)
        assert same(outcome(loaded.eval(), observation), outcome(model, observation))
        assert loaded.encoder is other
    with pytest.raises(ValueError, match="pass it again as encoder="):
        AutoWorldModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the tensor 'encoder"):
        AutoWorldModel.from_pretrained(tmp_path, encoder=nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.Flatten(2)))


def test_a_family_with_its_own_encoder_takes_none(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="fresh weights"):
        AutoWorldModel.from_pretrained("tdmpc2:tiny").save_pretrained(tmp_path)
    for load in (AutoWorldModel.from_pretrained, TDMPC2.from_pretrained):
        with pytest.raises(TypeError, match="tdmpc2 model has its own encoder"):
            load(tmp_path, encoder=Patches())
    with pytest.raises(ValueError, match="is a preset"):
        AutoWorldModel.from_pretrained("frozen_jepa:tiny", encoder=Patches())


def test_learning_moves_all_but_the_encoder_and_learns_what_actions_do() -> None:
    """From one image, nine actions lead to nine others: the error falls below that of the best guess without actions.

    After 200 steps it was 0.69, 0.25, 0.21 and 0.05 of that guess's with the seeds 0 to 3.
    """
    torch.manual_seed(1)
    spec = Composite(pixels=Unbounded((3, 16, 16), dtype=torch.uint8))
    model = FrozenJEPA(own(Patches(), history=1).config, spec, FrozenJEPA.default_specs()[1], encoder=Patches()).train()
    assert not model.encoder.training
    frozen = {name: x.clone() for name, x in model.encoder.state_dict().items()}
    action = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))
    pixels = torch.zeros(9, 2, 3, 16, 16, dtype=torch.uint8)
    pixels[:, 0, :, 4:12, 4:12] = 255
    for image, (row, column) in zip(pixels[:, 1], (4 + 4 * action).int().tolist(), strict=True):
        image[:, row : row + 8, column : column + 8] = 255
    previous = torch.stack([torch.zeros_like(action), action], 1)
    is_init = torch.zeros(9, 2, 1, dtype=torch.bool)
    batch = TensorDict(pixels=pixels, previous_action=previous, is_init=is_init, batch_size=[9, 2])
    arrived = model.see(pixels[:, 1])
    blind = (arrived - arrived.mean(0)).square().mean()
    parameters = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    before = [x.clone() for x in parameters]
    for _ in range(200):
        terms, _ = model.compute_loss(batch)
        optimizer.zero_grad()
        terms["prediction"].mean().backward()
        optimizer.step()
    assert terms["prediction"].mean() < 0.6 * blind
    assert all(torch.equal(x, frozen[name]) for name, x in model.encoder.state_dict().items())
    assert all(not torch.equal(x, y) for x, y in zip(parameters, before, strict=True))


def test_a_model_on_an_encoder_of_ones_own_keeps_the_contract() -> None:
    torch.manual_seed(0)
    check_world_model(own(Patches()))


def test_loss_is_the_error_of_windows_within_one_episode() -> None:
    torch.manual_seed(0)
    model = own(Patches(), history=2)
    batch = rows(model, 2, 4)
    batch["is_init"][1, 3] = True
    terms, _ = model.compute_loss(batch)
    tokens = model.embed({key: batch[key] for key in model.frame_keys})
    errors = []
    for row, first in ((0, 0), (0, 1), (1, 0)):  # the window from row 1 of the second slice would cross its reset
        frames, actions = tokens[row, first : first + 3], batch["previous_action"][row, first + 1 : first + 3]
        predicted = model.predict_tokens(frames[:-1], actions)
        errors.append((predicted - frames[1:]).square().mean((-2, -1)))
    torch.testing.assert_close(terms["prediction"].mean(), torch.stack(errors).mean())
    assert terms["prediction"].shape == (2, 2, 2)


def test_targets_have_no_gradient() -> None:
    """With a predictor that says zero, only the target could move the embedding of vectors."""
    model = own(Patches())
    nn.init.zeros_(model.predictor.norm.weight)
    model.compute_loss(rows(model, 2, 4))[0]["prediction"].mean().backward()
    assert model.predictor.norm.bias.grad.abs().sum() > 0
    assert not model.vector_encoder.weight.grad.any()


def test_distance_is_the_sum_of_the_means_of_image_and_vectors() -> None:
    model = own(Patches())
    tokens, goal = torch.randn(2, 5, 16, 12 + TINY.vector_dim).unbind(0)
    expected = (tokens - goal)[..., :12].square().mean((1, 2)) + (tokens - goal)[..., 12:].square().mean((1, 2))
    torch.testing.assert_close(model.distance(tokens, goal).squeeze(-1), expected)
    image_only = FrozenJEPA(TINY, Composite(pixels=Unbounded((3, 32, 32))), FrozenJEPA.default_specs()[1])
    torch.testing.assert_close(
        image_only.distance(tokens[..., :12], goal[..., :12]).squeeze(-1),
        (tokens - goal)[..., :12].square().mean((1, 2)),
    )


def test_planner_has_the_configuration_s_numbers() -> None:
    planner = make_planner(own(Patches(), num_samples=7, num_elites=3, iterations=2, horizon=4, execute=4))
    options = planner.options
    assert (options.num_samples, options.num_elites, options.iterations, options.horizon) == (7, 3, 2, 4)
    assert options.reward.terminal


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "with its 'model_type'"),
        ("{", "must be the JSON"),
        ('{"model_type": "vit", "auto_map": {}}', "foreign code"),
        ('{"model_type": "detr", "use_pretrained_backbone": true}', "one of .*'vit'.*; got 'detr'"),
        ('{"model_type": "vit", "num_hidden_layers": 1e9}', "absurd num_hidden_layers"),
        ('{"model_type": "vit", "hidden_size": 100000000}', "absurd hidden_size"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TINY, transformers=text)


def test_a_description_that_transformers_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="builds no model from the configuration"):
        build_transformers('{"model_type": "vit", "hidden_size": "wide"}')


def test_an_encoder_that_gives_something_else_is_named() -> None:
    with pytest.raises(ValueError, match=r"not \(1, 3, 16, 16\)"):
        FrozenJEPAConfig.of_encoder(nn.Identity(), image_size=16)
    model = own(Patches())
    model.encoder = nn.Flatten(2)
    with pytest.raises(ValueError, match=r"tokens \(3, 256\) an image, but the configuration says \(16, 12\)"):
        model.see(torch.zeros(1, 3, 16, 16))
