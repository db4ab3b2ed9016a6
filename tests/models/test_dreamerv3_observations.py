"""What DreamerV3 makes of each kind of observation: what it sees, predicts and refuses."""

from __future__ import annotations

import pytest
import torch
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, OneHot, TensorSpec, Unbounded

from worldloom_rl.models.dreamerv3.observations import Decoder, Encoder, VectorLeaf, sort_observations


def leaf(spec: TensorSpec) -> VectorLeaf:
    (found,), _ = sort_observations(Composite(x=spec))
    return found


def test_real_numbers_are_seen_in_symlog_space_and_predicted_in_their_own() -> None:
    value = torch.tensor([[0.0, 100.0], [-3.0, 1e6]])
    target, present = leaf(Unbounded((2,))).target(value)
    torch.testing.assert_close(target, value.sign() * value.abs().log1p())
    assert present.all()
    torch.testing.assert_close(leaf(Unbounded((2,))).prediction(target), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "value", "width", "hot"),
    [
        (Categorical(3), torch.tensor(2), 3, [2]),
        (Categorical(2, shape=(2,)), torch.tensor([1, 0]), 4, [1, 2]),
        (MultiCategorical([2, 3]), torch.tensor([1, 2]), 6, [1, 5]),
        (OneHot(4), torch.tensor([0, 0, 1, 0]), 4, [2]),
        (Bounded(0, 5, shape=(1,), dtype=torch.uint8), torch.tensor([5], dtype=torch.uint8), 6, [5]),
        (Categorical(2, dtype=torch.bool), torch.tensor(True), 2, [1]),
    ],
)
def test_categories_are_seen_one_hot_and_the_likeliest_is_predicted(
    spec: TensorSpec, value: torch.Tensor, width: int, hot: list[int]
) -> None:
    found = leaf(spec)
    assert found.width == width
    target, _ = found.target(value)
    assert target.nonzero().squeeze(-1).tolist() == hot
    predicted = found.prediction(10 * target)
    assert torch.equal(predicted.to(value.dtype), value)
    assert found.loss(100 * target, value) < 1e-5
    assert found.loss(torch.zeros(width), value) > 0.5


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Unbounded((2,)), torch.tensor([[1.0, 2.0], [-torch.inf, -torch.inf]])),
        (Categorical(3), torch.tensor([1, -1])),
    ],
)
def test_a_missing_value_is_seen_as_zeros_and_costs_nothing(spec: TensorSpec, value: torch.Tensor) -> None:
    found = leaf(spec)
    target, present = found.target(value)
    assert present.squeeze(-1).tolist() == [True, False]
    assert (target[1] == 0).all()
    loss = found.loss(torch.ones(2, found.width), value)
    assert loss[0] > 0
    assert loss[1] == 0


def test_the_encoder_joins_keys_in_alphabetical_order_and_the_decoder_in_that_of_the_spec() -> None:
    image = Bounded(0, 255, shape=(1, 48, 64), dtype=torch.uint8)
    colour = Bounded(0, 255, shape=(3, 48, 64), dtype=torch.uint8)
    spec = Composite(zebra=image, velocity=Unbounded((2,)), apple=colour, height=Unbounded(()))
    vectors, images = sort_observations(spec)
    encoder = Encoder(vectors, images, units=8, layers=1, depth=2)
    assert [leaf.key for leaf in encoder.leaves] == ["height", "velocity"]
    assert encoder.image_keys == ["apple", "zebra"]
    observation = {key: leaf.rand(torch.Size([5])) for key, leaf in spec.items()}
    assert encoder(observation).shape == (5, 8 + 3 * 4 * 8)
    decoder = Decoder(vectors, images, deterministic=16, stochastic=6, units=8, layers=1, depth=2)
    outputs = decoder(torch.randn(5, 16), torch.randn(5, 6))
    assert list(outputs) == ["velocity", "height", "zebra", "apple"]
    assert outputs["zebra"].shape == (5, 1, 48, 64)
    losses = decoder.losses(outputs, observation)
    assert all(loss.shape == (5,) for loss in losses.values())
    expected = (outputs["apple"] - observation["apple"] / 255).square().sum((1, 2, 3))
    torch.testing.assert_close(losses["apple"], expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Composite(x=Bounded(0, 255, shape=(3, 32, 32), dtype=torch.uint8)), "48 to 256 pixels .* got 32 x 32"),
        (Composite(x=Bounded(0, 255, shape=(3, 70, 64), dtype=torch.uint8)), "multiples of 16; got 70 x 64"),
        (Composite(x=Unbounded((2, 3, 4))), "'x' of shape \\(2, 3, 4\\)"),
        (Composite(x=Unbounded((2,), dtype=torch.int64)), "'x' has no bounds"),
        (Composite(x=Bounded(-1, 3, shape=(2,), dtype=torch.int64)), "'x' goes below 0"),
        (Composite(), "no leaves"),
        (
            Composite(
                x=Bounded(0, 255, shape=(3, 64, 64), dtype=torch.uint8),
                y=Bounded(0, 255, shape=(3, 96, 96), dtype=torch.uint8),
            ),
            "must be of one size",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(spec: Composite, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sort_observations(spec)
