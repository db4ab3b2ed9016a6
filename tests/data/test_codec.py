"""Entries that replay keeps in fewer bytes: exact where they are one-hot, within 2⁻⁸ where they are numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.data.codec import BFloat16, Codec, OneHotBytes, spared_bytes
from worldloom_rl.keys import STREAM
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.recipes.options import DreamerV3RunConfig

CODEC: Codec = {("latent", "stochastic"): OneHotBytes(16), ("latent", "deterministic"): BFloat16()}


def one_hots(number: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.randint(16, (number, 3)), 16).float()


def rows(number: int, first: bool = True) -> TensorDict:
    stochastic = one_hots(number)
    stochastic[0] = 0.0  # as before an episode's first observation
    flags = torch.zeros(number, 1, dtype=torch.bool)
    begins = flags.clone()
    begins[0] = first
    return TensorDict(
        {
            "latent": {"stochastic": stochastic, "deterministic": 3 * torch.randn(number, 5)},
            STREAM: torch.zeros(number, dtype=torch.int64), "is_init": begins, "terminated": flags, "truncated": flags,
        },
        batch_size=[number],
    )  # fmt: skip


def make(codec: Codec | None = CODEC) -> Replay:
    generator = torch.Generator().manual_seed(0)
    return Replay(capacity=64, window=3, batch_size=4, by="window", generator=generator, codec=codec)


def test_samples_are_exact_where_one_hot_and_within_the_bound_elsewhere() -> None:
    torch.manual_seed(0)
    given = rows(20)
    before = given.clone()
    plain, kept = make(None), make()
    for replay in (plain, kept):
        replay.extend(given)
    assert all(torch.equal(given[key], before[key]) for key in given.keys(True, True))
    expected, found = plain.sample()["latent"], kept.sample()["latent"]
    assert torch.equal(found["stochastic"], expected["stochastic"])
    assert found["deterministic"].dtype == torch.float32
    error = (found["deterministic"] - expected["deterministic"]).abs() / expected["deterministic"].abs()
    assert 0 < error.max() <= 2**-8
    assert torch.equal(kept.entries(("latent", "stochastic"))["latent", "stochastic"], before["latent", "stochastic"])


def test_written_back_latents_are_kept_likewise_and_saved_rows_go_on_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    replay = make()
    replay.extend(rows(20))
    replay.save(tmp_path)
    batch = replay.sample()
    new = batch.select("replay")
    new["latent"] = {"stochastic": one_hots(12).unflatten(0, (4, 3)), "deterministic": torch.randn(4, 3, 5)}
    assert replay.write_back(new) > 0
    replay.extend(rows(5, first=False))
    replay.save(tmp_path)
    again = make()
    again.load(tmp_path)
    again._rng.set_state(replay._rng.get_state())
    expected, found = replay.sample(), again.sample()
    assert all(torch.equal(found[key], expected[key]) for key in expected.keys(True, True))
    with pytest.raises(ValueError, match="was saved with codec="):
        make(None).load(tmp_path)


@pytest.mark.parametrize("value", [torch.full((1, 3, 16), 1 / 16), torch.ones(1, 3, 16), -torch.eye(16)[None, :3]])
def test_what_is_not_one_hot_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="others: leave its codec out"):
        OneHotBytes(16).encode(value)


def test_more_classes_than_a_byte_tells_apart_are_refused() -> None:
    value = torch.eye(255)[None]  # [1, 255 groups, 255 classes]
    assert torch.equal(OneHotBytes(255).decode(OneHotBytes(255).encode(value)), value)
    with pytest.raises(ValueError, match="at most 255 classes apart, got 256"):
        OneHotBytes(256)


def test_ten_million_rows_of_images_and_latents_of_12m_take_170_gigabytes_in_place_of_226() -> None:
    config = DreamerV3RunConfig(env="any", preset="size12m", replay_codec="bfloat16")
    images = Composite(pixels=Bounded(0, 255, (3, 64, 64), dtype=torch.uint8))
    actions = Composite(action=Bounded(-1, 1, (6,)))
    with torch.device("meta"):
        model = DreamerV3(config.model_config, images, actions)
    arrivals = Arrivals(model.observation_keys, model.action_keys, model.latent_keys)
    plain = arrivals.row_bytes(model.observation_spec, model.action_spec, model.latent_spec)
    names = config.latent_codec(model.config)
    shapes = {("latent", name): model.latent_spec[name].shape for name in names}
    spared = spared_bytes({("latent", name): codec for name, codec in names.items()}, shapes)
    beside = Replay(capacity=1000, window=65, batch_size=16).bytes_per_row
    assert 1e7 * (plain + beside) == pytest.approx(226e9, rel=0.01)
    assert 1e7 * (plain - spared + beside) < 170e9
