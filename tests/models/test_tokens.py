"""The token world model: its context, what it learns from, and where gradients go."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.modules import set_recurrent_mode

from worldloom_rl.models.tokens import TokensConfig, TokenWorldModel
from worldloom_rl.models.tokens.config import PRESETS
from worldloom_rl.noise import GeneratorNoise

SMALL = dataclasses.replace(
    PRESETS["tiny"], context=3, width=16, depth=2, units=8, attention_heads=2, feature_frames=2, num_bins=9
)


def make(perturbation: float = 0.1, **changes: Any) -> TokenWorldModel:
    torch.manual_seed(0)
    observation = Composite(pixels=Bounded(0, 255, shape=(3, 32, 32), dtype=torch.uint8))
    action = Composite(action=Categorical(3, shape=(), dtype=torch.int64))
    model = TokenWorldModel(dataclasses.replace(SMALL, **changes), observation, action)
    with torch.no_grad():  # heads that start at zero say something
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(perturbation * torch.randn_like(parameter))
    return model.eval()


def rows(model: TokenWorldModel, batch: int, time: int) -> TensorDict:
    """Arrival rows of coarse random images, whose tokens differ."""
    pixels = torch.randint(0, 256, (batch, time, 3, 2, 2)).repeat_interleave(16, -1).repeat_interleave(16, -2)
    flags = torch.zeros(batch, time, 1, dtype=torch.bool)
    return TensorDict(
        {
            "pixels": pixels.to(torch.uint8),
            "previous_action": torch.randint(0, 3, (batch, time)),
            "reward": torch.randn(batch, time, 1),
            "terminated": flags,
            "is_init": flags.clone(),
        },
        batch_size=[batch, time],
    )


def observed(model: TokenWorldModel, data: TensorDict) -> TensorDict:
    carry = model.initial_latent(data.batch_size)
    with torch.no_grad(), set_recurrent_mode(True):
        return model.observe(model.write_latent(data.clone(), carry))["latent"]


def test_the_window_holds_the_latest_frames_oldest_first_and_the_actions_taken_from_them() -> None:
    model = make()
    data = rows(model, 2, 5)
    data["is_init"][1, 2] = True
    latent = observed(model, data)
    tokens, action = latent["tokens"], torch.nn.functional.one_hot(data["previous_action"], 3).float()
    assert torch.equal(tokens, model.space.codebook[latent["codebook_indices"]])
    assert len(latent["codebook_indices"].unique()) > 3
    assert latent["length"].tolist() == [[1, 2, 3, 3, 3], [1, 2, 1, 2, 3]]
    assert torch.equal(latent["window"][0, 4], tokens[0, 2:])
    assert torch.equal(latent["window"][1, 3, :2], tokens[1, 2:4])
    assert torch.equal(latent["action_window"][0, 4, :2], action[0, 3:])
    assert torch.equal(latent["action_window"][1, 3, :1], action[1, 3:4])
    assert not latent["action_window"][1, 3, 1:].any()
    features = model.latent_features(dict(latent.items())).unflatten(-1, (2, *tokens.shape[-2:]))
    assert torch.equal(features[..., 0, :, :], tokens)
    assert torch.equal(features[0, 1:, 1], tokens[0, :-1])
    assert not features[1, 2, 1].any()  # there was no frame before


def test_what_stands_behind_the_window_has_no_effect() -> None:
    model = make()
    data = rows(model, 3, 2)
    latent = {name: value[:, -1] for name, value in observed(model, data).items()}
    action = torch.eye(3)
    full = latent["length"].unsqueeze(-1) <= torch.arange(3)
    assert full.any()
    garbage = {
        **latent,
        "window": torch.where(full[..., None, None], 1e3, latent["window"]),
        "action_window": torch.where(full[..., None], 1e3, latent["action_window"]),
    }
    _, expected = model.outlook(latent, action)
    _, found = model.outlook(garbage, action)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_the_next_frame_the_reward_and_the_continuation_depend_on_the_action_and_on_the_frame_before() -> None:
    model = make()
    data = rows(model, 4, 2)
    latent = {name: value[:, -1] for name, value in observed(model, data).items()}
    action = torch.eye(3)[[0, 0, 0, 0]]
    _, outlook = model.outlook(latent, action)
    _, other = model.outlook(latent, torch.eye(3)[[1, 1, 1, 1]])
    _, forgetful = model.outlook({**latent, "window": latent["window"] * 0}, action)
    for before, after, without in zip(outlook, other, forgetful, strict=True):
        assert (before - after).abs().flatten(1).amax(1).min() > 1e-4
        assert (before - without).abs().flatten(1).amax(1).min() > 1e-4


def test_the_loss_over_a_sequence_is_what_single_predictions_from_the_filtered_latents_give() -> None:
    model = make()
    data = rows(model, 3, 6)
    data["is_init"][1, 2] = True
    data["terminated"][2, 4] = True
    terms, posterior = model.compute_loss(data)
    assert posterior["latent", "tokens"].shape == (3, 6, 4, 8)
    latent = {name: value.detach() for name, value in posterior["latent"].items()}
    action = torch.nn.functional.one_hot(data["previous_action"], 3).float()
    # A stretch has three frames: where the fourth follows in the same episode, filtering knows more of the past.
    compared = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    for t in range(5):
        before = {name: value[:, t] for name, value in latent.items()}
        _, outlook = model.outlook(before, action[:, t + 1])
        likely = outlook.token_logits.log_softmax(-1)
        index = latent["codebook_indices"][:, t + 1].unsqueeze(-1)
        dynamics = -likely.gather(-1, index).squeeze(-1).mean(-1)
        head = model.dynamics.reward_head
        reward = head.loss(outlook.reward_logits, data["reward"][:, t + 1])
        goes_on = torch.sigmoid(outlook.continue_logits).squeeze(-1)
        came = ~data["terminated"][:, t + 1, 0]
        ended = -torch.where(came, goes_on, 1 - goes_on).log()
        for name, expected in (("dynamics", dynamics), ("reward", reward), ("continue", ended)):
            expected = torch.where(data["is_init"][:, t + 1, 0], 0.0, expected)
            kept = compared[:, t]
            torch.testing.assert_close(terms[name][kept, t], expected[kept], rtol=1e-4, atol=1e-5)


def test_the_tokenizer_learns_from_images_alone_and_the_behaviour_from_nothing_here() -> None:
    model = make(quantizer="vq", vocabulary=16).train()
    data = rows(model, 2, 4)
    terms, _ = model.compute_loss(data)
    assert set(terms) == set(model.loss_weights)
    torch.stack([terms[name].mean() for name in ("dynamics", "reward", "continue")]).sum().backward()
    assert all(parameter.grad is None for parameter in model.tokenizer.parameters())
    assert all(parameter.grad is not None for parameter in model.dynamics.parameters())
    assert all(parameter.grad is None for parameter in model.behavior.parameters())


@pytest.mark.parametrize("quantizer", ["vq", "vq-ema", "fsq"])
def test_running_means_move_only_in_training_mode_and_only_when_learning(quantizer: str) -> None:
    model = make(quantizer=quantizer, vocabulary=16)
    assert set(model.compute_loss(rows(model, 2, 3))[0]) == set(model.loss_weights)
    before = model.space.codebook.detach().clone()
    data = rows(model, 2, 3)

    def moved() -> bool:
        return not torch.equal(model.space.codebook, before)

    model.compute_loss(data)
    model.train()
    model.encode(data.clone())
    assert not moved()
    model.compute_loss(data)
    assert moved() == (quantizer == "vq-ema")


def test_an_overfitted_model_foresees_frames_rewards_and_continuation() -> None:
    """Action 0 shows a dark frame, 1 a bright one, 2 the same as before; seeing the bright one is rewarded."""
    model = make(perturbation=0.0, width=32, units=32, num_bins=255).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    frames = torch.stack([torch.full((3, 32, 32), 30), torch.full((3, 32, 32), 220)]).to(torch.uint8)
    weights = model.loss_weights
    for _ in range(150):
        action = torch.randint(0, 3, (16, 4))
        seen = [torch.randint(0, 2, (16,))]
        for t in range(1, 4):
            seen.append(torch.where(action[:, t] == 2, seen[-1], action[:, t]))
        shown = torch.stack(seen, 1)
        flags = torch.zeros(16, 4, 1, dtype=torch.bool)
        data = {"pixels": frames[shown], "previous_action": action, "reward": shown.unsqueeze(-1).float()}
        data |= {"terminated": flags, "is_init": flags.clone()}
        terms, _ = model.compute_loss(TensorDict(data, batch_size=[16, 4]))
        torch.stack([weights[name] * term.mean() for name, term in terms.items()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    start = model.encode(TensorDict({"pixels": frames}, batch_size=[2])).select("latent").detach()
    actions = torch.nn.functional.one_hot(torch.tensor([[2, 1, 2, 0], [2, 0, 2, 1]]), 3).float()
    model.noise = GeneratorNoise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        imagined = model.imagine(start, actions=actions)
        pixels = model.decode(imagined["next"].select("latent"))["pixels"]
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    torch.testing.assert_close(imagined["next", "reward"].squeeze(-1), expected.float(), rtol=0.0, atol=0.2)
    assert imagined["next", "continue"].min() > 0.9
    assert (pixels - frames[expected].float()).abs().mean((-3, -2, -1)).max() < 30  # of 255


def test_the_sizes_of_the_preset_for_atari() -> None:
    with torch.device("meta"):
        model = TokenWorldModel(PRESETS["atari100k"], *TokenWorldModel.default_specs())
    assert (model.space.count, model.space.vocabulary, model.space.width) == (16, 512, 512)
    assert model.latent_spec["window"].shape == (20, 16, 512)
    assert model.num_parameters() == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Composite(observation=Unbounded((5,))), "reads one uint8 image"),
        (Composite(pixels=Bounded(0, 255, (3, 32, 32), dtype=torch.uint8), position=Unbounded((2,))), "nothing else"),
        (Composite(pixels=Bounded(0, 255, (3, 40, 32), dtype=torch.uint8)), "40 x 32 pixels cannot be halved 4 times"),
    ],
)
def test_observations_that_it_does_not_read(observation: Composite, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenWorldModel(SMALL, observation, Composite(action=Categorical(3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "pq"}, "quantizer must be one of"),
        ({"levels": (2, 5)}, "levels must be a whole number in"),
        ({"levels": (1000, 1000)}, "the product of levels"),
        ({"attention_heads": 3}, "must divide width"),
        ({"feature_frames": 4}, "must not exceed context 3"),
        ({"min_std": 2.0}, "must not exceed max_std"),
    ],
)
def test_numbers_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_the_configuration_survives_json() -> None:
    assert TokensConfig.from_json(SMALL.to_json()) == SMALL
