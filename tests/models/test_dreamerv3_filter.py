"""The fast filter with its written-out gradient, against autograd over the plain loop and over single steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.dreamerv3.config import PRESETS
from worldloom_rl.models.dreamerv3.fast.filter import can_filter_fast, filter_fast
from worldloom_rl.noise import ReplayNoise

BATCH, TIME = 3, 5


def build(classes: int) -> DreamerV3:
    torch.manual_seed(0)
    config = replace(PRESETS["tiny"], deterministic=16, hidden=6, groups=3, classes=classes, blocks=4, units=8)
    model = DreamerV3(config, Composite(observation=Unbounded((5,))), Composite(action=Bounded(-1.0, 1.0, (2,))))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


@pytest.mark.parametrize("classes", [4, 9])  # few, and too many for the softmax over few
def test_the_fast_filter_the_loop_and_single_steps_agree_in_states_and_gradients(classes: int) -> None:
    model = build(classes)
    space, rssm = model.rssm.space, model.rssm
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    uniform = [torch.rand(BATCH, space.groups, generator=generator, dtype=torch.float64) for _ in range(TIME)]
    is_init = torch.zeros(BATCH, TIME, 1, dtype=torch.bool)
    is_init[1, 2] = True
    inputs = [
        random(BATCH, 16), random(BATCH, 3, classes), random(BATCH, TIME, 2), random(BATCH, TIME, model.encoder.width)
    ]  # fmt: skip
    weights = [random(BATCH, TIME, 16), random(BATCH, TIME, 3, classes), random(BATCH, TIME, 3 * classes)]

    def gradients(way: str) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        state, stochastic, action, tokens = leaves
        noise = ReplayNoise({"stochastic": uniform})
        if way == "steps":
            rows = []
            for t in range(TIME):
                rows.append(rssm.observe(state, stochastic, action[:, t], tokens[:, t], is_init[:, t], noise))
                state, stochastic, _ = rows[-1]
            outputs = [torch.stack(parts, 1) for parts in zip(*rows, strict=True)]
        elif way == "loop":
            outputs = list(rssm.observe_sequence(state, stochastic, action, tokens, is_init, noise))
        else:
            assert can_filter_fast(space, rssm.posterior, is_init)
            parts = (rssm.core, rssm.posterior, space)
            outputs = list(filter_fast(*parts, state, stochastic, action, tokens, is_init, noise))
            assert type(outputs[0].grad_fn.next_functions[0][0]).__name__ == "_FilterBackward"
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        learned = [*leaves, *(parameter for name, parameter in rssm.named_parameters() if not name.startswith("prior"))]
        return [output.detach() for output in outputs], list(torch.autograd.grad(loss, learned))

    for fast, loop, single in zip(gradients("fast"), gradients("loop"), gradients("steps"), strict=True):
        for ours, plain, expected in zip(fast, loop, single, strict=True):
            torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-6, check_dtype=False)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_a_model_learns_by_the_fast_filter_and_acts_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(4).float()
    taken: list[int] = []
    plain = model.rssm.observe_sequence
    monkeypatch.setattr(model.rssm, "observe_sequence", lambda *given: taken.append(1) or plain(*given))
    rows = (model.initial_latent((BATCH,)), torch.zeros(BATCH, TIME, 2), {"observation": torch.zeros(BATCH, TIME, 5)})
    is_init = torch.zeros(BATCH, TIME, 1, dtype=torch.bool)
    model.filter_sequence(*rows, is_init, model.noise)
    assert not taken
    with torch.no_grad():
        model.filter_sequence(*rows, is_init, model.noise)
    assert taken


def test_under_autocast_the_fast_filter_stays_in_float32_forwards_and_back() -> None:
    model = build(4).float()
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(BATCH, TIME, model.encoder.width, generator=generator)
    is_init = torch.zeros(BATCH, TIME, 1, dtype=torch.bool)
    uniform = [torch.rand(BATCH, model.rssm.space.groups, generator=generator) for _ in range(TIME)]
    core, posterior = model.rssm.core, model.rssm.posterior
    learned = [core.mix.weight, core.mix_norm.weight, core.gates.weight, posterior[1].weight]

    def found(*, autocast: bool) -> list[Tensor]:
        carry, noise = model.initial_latent((BATCH,)), ReplayNoise({"stochastic": uniform})
        given = (carry["deterministic"], carry["stochastic"], torch.zeros(BATCH, TIME, 2), tokens, is_init, noise)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            assert can_filter_fast(model.rssm.space, posterior, is_init)
            states = filter_fast(core, posterior, model.rssm.space, *given)
            loss = torch.stack([state.square().sum() for state in states]).sum()
            return [*states, *torch.autograd.grad(loss, learned)]

    for plain, under in zip(found(autocast=False), found(autocast=True), strict=True):
        assert under.dtype == torch.float32
        assert torch.equal(under, plain)
