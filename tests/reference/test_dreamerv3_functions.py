"""DreamerV3's functions and optimiser against numbers of the official code.

Every tensor under fn/ and opt_* of every golden file is an input or is compared; the rest is in test_dreamerv3.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from dreamerv3_golden import FILES, GOLDEN, ROOT, Checks, Golden, Section
from torch import Tensor, nn

from worldloom_rl.functional.divergences import categorical_kl
from worldloom_rl.functional.returns import lambda_return
from worldloom_rl.functional.scaling import symexp, symlog
from worldloom_rl.functional.symexp_two_hot import symexp_bins, symexp_two_hot, symexp_two_hot_mean
from worldloom_rl.functional.two_hot import soft_cross_entropy
from worldloom_rl.latents import CategoricalLatent
from worldloom_rl.nn.initialise import truncated_normal_
from worldloom_rl.nn.percentile_range import PercentileRange
from worldloom_rl.nn.slow_copy import lerp_parameters
from worldloom_rl.training.laprop import LaProp, constant_schedule

DISCOUNT, LAMBDA = 1 - 1 / 333, 0.95  # of fn/lambda_return, as the README says


check = Checks()
UNUSED = {"fn/norm_meanstd", "fn/norm_perc_debias"}  # normalisers that no default of the official code takes


def close(actual: Tensor, expected: Tensor, *, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=atol)


def test_golden_files_are_found() -> None:
    assert FILES, f"{ROOT} holds no .safetensors file."


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.path.stem)
def test_every_function_of_the_file_has_a_check(golden: Golden) -> None:
    assert {name for name in check.unchecked(golden) if name.startswith(("fn/", "opt_"))} == UNUSED


# ------------------------------------------------------------------ returns


@check("fn/lambda_return")
def test_lambda_return(section: Section) -> None:
    section["val"]  # the official function takes it, too, and does not use it
    live = DISCOUNT * (~section["term"]).float()
    returns = lambda_return(section["rew"], section["boot"], live, section["last"], LAMBDA)
    close(returns, section["ret"])


@check("fn/lambda_return_soft")
def test_lambda_return_of_imagined_steps(section: Section) -> None:
    """Continuation probabilities that hold the discount already, and no boundaries."""
    reward, value = (section.golden.tensors[f"fn/lambda_return/{name}"] for name in ("rew", "val"))
    close(lambda_return(reward, value, section["con"], None, LAMBDA), section["ret"])


# ------------------------------------------------------------------ numbers as distributions over bins


@check("fn/symlog")
def test_symlog(section: Section) -> None:
    close(symlog(section["x"]), section["symlog"])


@check("fn/symexp")
def test_symexp(section: Section) -> None:
    close(symexp(section["x"]), section["symexp"])


@check(r"fn/twohot\d+")
def test_symexp_two_hot(section: Section) -> None:
    bins, logits, target = section["bins"], section["logits"], section["target"].unsqueeze(-1)
    close(symexp_bins(bins.shape[0]), bins, rtol=5e-6, atol=0)  # expm1 of torch and XLA differ by 2e-6
    close(soft_cross_entropy(logits, symexp_two_hot(target, bins)), section["loss"])
    # A sum of terms up to 4.9e8 that cancel.
    close(symexp_two_hot_mean(logits, bins).squeeze(-1), section["pred"], rtol=2e-6, atol=1)
    uniform = symexp_two_hot_mean(torch.zeros_like(logits), bins)
    assert torch.equal(uniform, section["pred_uniform_logits"].expand_as(uniform))


# ------------------------------------------------------------------ categorical latents


@check(r"fn/kl_(plain|unimix)")
def test_categoricals(section: Section) -> None:
    inputs = section if section.name == "fn/kl_plain" else Section(section.golden, "fn/kl_plain")
    p, q = inputs["lhs"], inputs["rhs"]
    latent = CategoricalLatent(*p.shape[-2:], unimix=0.01 if section.name == "fn/kl_unimix" else 0.0)
    log_p, log_q = (latent.log_probabilities(logits.flatten(-2)) for logits in (p, q))
    close(log_p, section["logits_mixed"].log_softmax(-1))  # without mixing, the official logits are not normalised
    close(categorical_kl(log_p, log_q), section["kl"], atol=2e-6)
    close(-(log_p.exp() * log_p).sum((-2, -1)), section["entropy"])


# ------------------------------------------------------------------ running statistics


@check("fn/norm_perc")
def test_the_running_range_of_returns(section: Section) -> None:
    normalizer = PercentileRange(rate=0.01, limit=1.0)
    for x, expected in zip(section["x"], section["offset_scale"], strict=True):
        normalizer.update(x)
        close(torch.stack([normalizer.low, normalizer.scale()]), expected)


class Holder(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone())


@check(r"fn/slow_every\d+")
def test_slow_copy(section: Section) -> None:
    """Updates 0, n, 2n, … move the copy; the caller counts."""
    slow, every = Holder(section["dst0"]), int(section.name.removeprefix("fn/slow_every"))
    for count, (source, expected) in enumerate(zip(section["src"], section["dst"], strict=True)):
        if count % every == 0:
            lerp_parameters(slow, Holder(source), 0.02)
        close(slow.value, expected, atol=1e-7)


# ------------------------------------------------------------------ initial weights


@check(r"fn/init_\w+")
def test_initial_weights(section: Section) -> None:
    """All inputs of a kernel count as its fan-in, those of the other blocks too."""
    numbers = section["shape_std_maxabs"].tolist()
    shape, std, largest = [int(size) for size in numbers[:-2]], numbers[-2], numbers[-1]
    torch.manual_seed(0)
    weight = truncated_normal_(torch.empty(shape), fan_in=math.prod(shape[:-1]))
    assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(weight.numel()))
    assert weight.abs().max().item() == pytest.approx(largest, rel=5e-3)


# ------------------------------------------------------------------ optimiser


@check("opt_(const|linear_wd)")
def test_optimizer(section: Section) -> None:
    settings, linear = section.golden.metadata["opt"], section.name == "opt_linear_wd"
    parameters = {name: nn.Parameter(value.clone()) for name, value in section.below("param0").items()}
    kernels = [parameter for name, parameter in parameters.items() if name.endswith("/kernel")]
    others = [parameter for name, parameter in parameters.items() if not name.endswith("/kernel")]
    warmup, anneal = 4, 7  # these and the learning rate as the README says
    optimizer = LaProp(
        [{"params": kernels, "weight_decay": 0.1 if linear else 0.0}, {"params": others}],
        lr=4e-5,
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
        agc=settings["agc"],
        warmup=warmup,
        schedule=(lambda n: 1 - 0.9 * min(n / (anneal - warmup), 1)) if linear else constant_schedule,
    )
    gradients, updates, expected = (section.below(folder) for folder in ("grads", "updates", "params"))
    learning_rates = section["lr_schedule_first8"]
    for i in range(len(learning_rates)):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][i].clone()
        if not linear:  # the file holds zeros for the other one
            assert optimizer.learning_rates() == pytest.approx([float(learning_rates[i])] * 2)
        optimizer.step()
        for name, parameter in parameters.items():
            # The official 1 − βᵗ is rounded to float32, which moves updates by 1e-5 of themselves.
            rounding = torch.finfo(torch.float32).eps * float(before[name].abs().max())
            close(parameter - before[name], updates[name][i], rtol=2e-5, atol=rounding + 1e-9)
            close(parameter, expected[name][i], rtol=5e-7, atol=4e-9)  # a ten-thousandth of one update
