"""The JEPA family beyond its reference numbers: goals, episodes' ends, modes, losses and what it does not have."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl import AutoWorldModel, GeneratorNoise, WorldModelLoss, list_world_models
from worldloom_rl.models.jepa import JEPA, JEPAConfig, make_planner
from worldloom_rl.models.jepa.config import PRESETS
from worldloom_rl.testing import check_world_model

PIXELS = Composite(pixels=Unbounded((3, 16, 16), dtype=torch.uint8))
ACTION = Composite(action=Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32))


def build(observation: Composite = PIXELS, **changes: Any) -> JEPA:
    """A tiny model with weights that all say something."""
    torch.manual_seed(0)
    model = JEPA(dataclasses.replace(PRESETS["tiny"], **changes), observation, ACTION)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def rows(batch: int = 4, time: int = 6) -> TensorDict:
    """Replay rows of pixels and actions, nothing else."""
    generator = torch.Generator().manual_seed(0)
    is_init = torch.zeros(batch, time, 1, dtype=torch.bool)
    is_init[:, 0] = True
    return TensorDict(
        {
            "pixels": torch.randint(256, (batch, time, 3, 16, 16), generator=generator, dtype=torch.uint8),
            "previous_action": torch.rand(batch, time, 2, generator=generator) * 2 - 1,
            "is_init": is_init,
        },
        batch_size=[batch, time],
    )


def prediction_term(model: JEPA, batch: TensorDict) -> Tensor:
    return model.compute_loss(batch, GeneratorNoise(torch.Generator().manual_seed(0)))[0]["prediction"].detach()


# ---------------------------------------------------------------------- goals


def test_a_goal_is_added_for_every_observation_and_a_given_one_is_kept() -> None:
    both = Composite(pixels=PIXELS["pixels"].clone(), state=Composite(velocity=Unbounded((2,))))
    keys = set(build(both).observation_keys)
    assert keys == {"pixels", ("state", "velocity"), ("goal", "pixels"), ("goal", "state", "velocity")}
    given = Composite(pixels=PIXELS["pixels"].clone(), goal=PIXELS.clone())
    assert build(given).observation_spec == given
    assert build().observation_spec == given


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Composite(image=PIXELS["pixels"].clone()), r"has the goals \[\('goal', 'image'\)\], but observes only"),
        (Composite(pixels=Unbounded((1, 16, 16), dtype=torch.uint8)), "but 'pixels' has"),
    ],
)
def test_a_goal_of_what_is_not_observed_is_refused(goal: Composite, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Composite(pixels=PIXELS["pixels"].clone(), goal=goal))


def test_the_goal_is_encoded_once_an_episode() -> None:
    model, calls = build(), []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    td = model.observation_spec.rand(torch.Size([2]))
    td.update(model.encode(td.clone()).select("latent"))
    td.set("previous_action", torch.zeros(2, 2)).set("is_init", torch.zeros(2, 1, dtype=torch.bool))
    calls.clear()
    kept = td["latent", "goal"].clone()
    td["goal", "pixels"] = 255 - td["goal", "pixels"]
    goes_on = model.observe(td.clone())
    assert len(calls) == 1  # the frame alone
    assert torch.equal(goes_on["latent", "goal"], kept)
    begins = model.observe(td.clone().set("is_init", torch.tensor([[False], [True]])))
    assert len(calls) == 3
    assert torch.equal(begins["latent", "goal"][0], kept[0])
    assert not torch.equal(begins["latent", "goal"][1], kept[1])


def test_a_carry_of_zeros_begins_an_episode() -> None:
    # As after a random prefill: the first row that the policy sees is not an initial one, but nothing was seen before.
    model = build()
    td = model.observation_spec.rand(torch.Size([3]))
    encoded = model.encode(td.clone())
    model.write_latent(td, model.initial_latent((3,)))
    td.set("previous_action", torch.ones(3, 2)).set("is_init", torch.zeros(3, 1, dtype=torch.bool))
    observed = model.observe(td)
    for key in model.latent_keys:
        assert torch.equal(observed[key], encoded[key]), key


# ---------------------------------------------------------------------- learning


def test_learning_needs_neither_rewards_nor_goals() -> None:
    losses, posterior = WorldModelLoss(build().train(), PRESETS["tiny"].loss_weights)(rows())
    assert set(losses.keys()) == {"loss_prediction", "loss_sigreg"}
    assert posterior["z_std"].shape == (4, 6)
    assert not posterior["z_std"].requires_grad


def test_windows_that_cross_an_episode_s_end_do_not_count() -> None:
    model, batch = build(), rows()
    whole = prediction_term(model, batch)
    assert whole.shape == (4, 3, 3)  # six rows hold three windows of four
    batch["is_init"][1, 3] = True  # within all windows of this row
    batch["is_init"][2, 5] = True  # within the last window only
    dropped = prediction_term(model, batch)
    crossing = torch.zeros(4, 3, dtype=torch.bool)
    crossing[1] = crossing[2, 2] = True
    assert (dropped[crossing] == 0).all()
    torch.testing.assert_close(dropped[~crossing], whole[~crossing] * 12 / 8)
    torch.testing.assert_close(dropped.mean(), whole[~crossing].mean())
    batch["is_init"][:] = True
    assert (prediction_term(model, batch) == 0).all()


def test_a_window_begins_at_an_initial_row() -> None:
    batch = rows(time=4)
    first = prediction_term(build(), batch)
    batch["is_init"][:, 0] = False
    assert torch.equal(prediction_term(build(), batch), first)


def test_sequences_shorter_than_the_history_are_windows_of_their_own() -> None:
    assert prediction_term(build(), rows(time=2)).shape == (4, 1, 1)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        prediction_term(build(), rows(time=1))


def test_a_missing_action_counts_as_none() -> None:
    batch = rows()
    batch["previous_action"][:, 2] = 0.0
    expected = prediction_term(build(), batch)
    batch["previous_action"][:, 2] = torch.nan
    assert torch.equal(prediction_term(build(), batch), expected)


def test_the_target_keeps_its_gradient() -> None:
    # Of two rows, the first is what is predicted from: all of the gradient of the second is the target's.
    model, batch = build(), rows(time=2)
    pixels = (batch["pixels"] / 255).requires_grad_()
    observation, action = {"pixels": pixels}, batch["previous_action"][:, 1:]
    terms = model.learning_terms(observation, action, batch["is_init"][..., 0], model.noise)
    (gradient,) = torch.autograd.grad(terms.losses["prediction"].sum(), pixels, retain_graph=True)
    error = (terms.embedding[:, 1] - terms.predicted.detach()[:, 0, 0]).square().mean(-1).sum()
    (expected,) = torch.autograd.grad(error, pixels)
    assert expected[:, 1].abs().max() > 1e-3
    torch.testing.assert_close(gradient[:, 1], expected[:, 1], rtol=1e-4, atol=1e-6)


def test_batch_statistics_and_dropout_belong_to_learning_alone() -> None:
    model, batch = build(dropout=0.3), rows()
    td = model.observation_spec.rand(torch.Size([5])).update(model.action_spec.rand(torch.Size([5])))

    def acted() -> TensorDict:
        return model.predict(model.encode(td.clone()))

    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    evaluated = acted()
    model.train()
    trained = acted()
    for key in (*model.latent_keys, "reward"):
        assert torch.equal(evaluated[key], trained[key]), key
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    losses = [prediction_term(model, batch) for _ in range(2)]
    assert torch.equal(*losses)  # the same draws
    assert not torch.equal(model.projector.norm.running_mean, before["projector.norm.running_mean"])
    other = model.compute_loss(batch, GeneratorNoise(torch.Generator().manual_seed(1)))[0]["prediction"]
    assert not torch.equal(other, losses[0])


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"regularizer": "none"}, {"prediction"}),
        ({"regularizer": "sigreg", "straightening_coef": 0.1}, {"prediction", "sigreg", "straightening"}),
        ({"regularizer": "sigreg", "sigreg_coef": 0.0}, {"prediction"}),
        ({"regularizer": "vcreg"}, {"prediction", "std", "std_t", "cov", "temporal"}),
        ({"regularizer": "vcreg", "cov_t_coef": 1.0}, {"prediction", "std", "std_t", "cov", "cov_t", "temporal"}),
    ],
)
def test_the_regularizer_of_the_configuration_decides_the_terms(changes: dict[str, Any], terms: set[str]) -> None:
    model = build(**changes)
    assert set(model.config.loss_weights) == terms
    found, _ = model.compute_loss(rows())
    assert set(found) == terms


# ---------------------------------------------------------------------- what it has and has not


def test_its_reward_is_the_goal_s_and_nothing_can_be_decoded() -> None:
    model = build()
    td = model.encode(model.observation_spec.rand(torch.Size([3]))).update(model.action_spec.rand(torch.Size([3])))
    predicted = model.predict(td.clone())
    latent = model.read_latent(predicted)
    torch.testing.assert_close(
        predicted["reward"], -(latent["tokens"] - latent["goal"]).square().sum((-2, -1))[..., None]
    )
    assert (predicted["continue"] == 1).all()
    assert model.decode.out_keys == []
    assert torch.equal(latent["goal"], td["latent", "goal"])


@pytest.mark.parametrize(("execute", "terminal"), [(1, False), (4, False), (5, True)])
def test_the_reward_s_kind_follows_from_what_is_executed(execute: int, terminal: bool) -> None:
    reward = make_planner(build(), execute=execute).options.reward
    assert (reward.terminal, reward.distance) == (terminal, build().distance)


def test_presets_are_registered_and_a_saved_one_comes_back(tmp_path) -> None:
    assert {"jepa:tiny", "jepa:lewm"} <= set(list_world_models("jepa:*"))
    model = build()
    model.save_pretrained(tmp_path / "model")
    loaded = AutoWorldModel.from_pretrained(tmp_path / "model")
    assert isinstance(loaded, JEPA)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_paper_s_preset_has_the_reference_s_sizes() -> None:
    observation = Composite(pixels=Unbounded((3, 224, 224), dtype=torch.uint8))
    action = Composite(action=Bounded(-1.0, 1.0, shape=(10,), dtype=torch.float32))  # a block of 5 actions [2]
    with torch.device("meta"):
        model = JEPA(PRESETS["lewm"], observation, action)
    # transformers' ViTModel of these sizes has 5 501 376 parameters without its pooler.
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 5_501_376
    assert model.num_parameters() == 18_034_478


@pytest.mark.slow
def test_the_paper_s_preset_keeps_the_contract() -> None:
    check_world_model(JEPA(PRESETS["lewm"], *JEPA.default_specs()))


# ---------------------------------------------------------------------- errors


def test_an_observation_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot read the observation 'colour' of shape \(\)"):
        build(Composite(colour=Categorical(3, shape=())))
    with pytest.raises(ValueError, match="neither a vector nor an image"):
        build(Composite())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet"}, r"encoder must be one of \['cnn', 'vit'\], got 'resnet'"),
        ({"regularizer": "ema"}, "regularizer must be one of"),
        ({"pixel_mean": ()}, "pixel_mean must be a tuple"),
        ({"horizon": 3, "execute": 4}, "A plan of 3 actions"),
        ({"encoder_dim": 10}, "must be a multiple of encoder_heads"),
        ({"num_elites": 1000}, "num_elites 1000 must be between 1 and num_samples"),
        ({"history": 0}, "history must be a whole number"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JEPAConfig(**changes)


def test_pixel_statistics_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="pixel_mean has 3 numbers, but images have 1 channels"):
        build(Composite(pixels=Unbounded((1, 16, 16), dtype=torch.uint8)), pixel_mean=(0.1, 0.2, 0.3))
