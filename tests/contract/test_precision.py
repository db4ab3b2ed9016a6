"""Every family in the precision that it is cast to: latents there, rewards and probabilities in float32 or better."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from family_work import FAMILIES, ROWS, acting_row, imagined, make_model, make_policy, make_rows
from torch import Tensor
from torchrl.envs.utils import check_env_specs

from worldloom_rl import ImaginationEnv
from worldloom_rl.functional.precision import precise
from worldloom_rl.noise import ModeNoise

PRECISIONS = (torch.float64, torch.bfloat16, torch.float16)

every_family = pytest.mark.parametrize("family", FAMILIES)
every_precision = pytest.mark.parametrize("dtype", PRECISIONS, ids=str)


@cache
def cast(family: str, dtype: torch.dtype) -> Any:
    return make_model(family).to(dtype)


def real(values: dict[Any, Tensor]) -> list[Tensor]:
    return [value for value in values.values() if value.is_floating_point()]


@every_precision
@every_family
def test_it_observes_and_imagines(family: str, dtype: torch.dtype) -> None:
    model = cast(family, dtype)
    rows = model.observe(make_rows(model, 3))
    dreamt = imagined(model, rows.select(*model.latent_keys).detach(), ModeNoise())
    for latents in (model.read_latent(rows), {key: dreamt["next"].get(key) for key in model.latent_keys}):
        assert {value.dtype for value in real(latents)} == {dtype}
        assert all(value.isfinite().all() for value in real(latents))
    for key in (model.key_map.reward, model.key_map.continuation):
        assert dreamt["next", key].dtype == precise(dtype)
        assert dreamt["next", key].isfinite().all()
    assert all(value.dtype == precise(dtype) for value in real(model.decode_latent(model.read_latent(rows))))


@pytest.mark.parametrize("dtype", PRECISIONS[:2], ids=str)
@every_family
def test_it_acts_and_learns(family: str, dtype: torch.dtype) -> None:
    model = cast(family, dtype)
    policy = model.make_policy(num_samples=8, num_elites=2) if family == "vjepa2" else make_policy(model)
    with torch.no_grad():
        acted = policy(acting_row(model, policy))
    assert all(model.action_spec[key].is_in(acted.get(key)[0]) for key in model.action_keys)
    terms, _ = model.compute_loss(make_rows(model, *ROWS[family]))
    sum(term.mean() for term in terms.values()).backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    assert gradients
    assert all(gradient.dtype == dtype for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_precision
@every_family
def test_its_imagination_says_its_precision(family: str, dtype: torch.dtype) -> None:
    check_env_specs(ImaginationEnv(cast(family, dtype)))


@every_family
def test_a_double_model_gives_the_numbers_of_float32_with_more_digits(family: str) -> None:
    single = make_model(family)
    start = single.read_latent(single.encode(make_rows(single, 3)))
    drawn = ("stochastic", "codebook_indices")  # one digit more can make another class the likeliest
    results = []
    for model in (single, cast(family, torch.float64)):
        latent = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in start.items()}
        action = torch.full((3, model.action_space.width), 0.1, dtype=model.dtype)
        arrived, _, continuation = model.predict_latent(latent, action, ModeNoise())
        leaves = [] if "codebook_indices" in arrived else [arrived[name] for name in arrived if name not in drawn]
        results.append([value.double() for value in (*leaves, continuation)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@every_family
def test_bounds_and_bins_keep_their_digits(family: str) -> None:
    model = make_model(family)
    buffers = {name: value.clone() for name, value in model.named_buffers() if name not in model.state_dict()}
    cast_and_back = model.bfloat16().float()
    kept = dict(cast_and_back.named_buffers())
    for name in buffers:
        if name.startswith(("action_space.", "discounts")) or name.endswith(".bins"):
            assert torch.equal(kept[name], buffers[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2", "tokens", "jepa"])
def test_a_cast_model_that_was_saved_is_read_in_single_precision(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = make_model(family).to(dtype)
    model.save_pretrained(tmp_path / "model")
    read = type(model).from_pretrained(tmp_path / "model")
    assert {value.dtype for value in read.parameters()} == {torch.float32}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value.to(read.state_dict()[name].dtype))
