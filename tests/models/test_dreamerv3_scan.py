"""The filter's written-out gradient against autograd over single steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.dreamerv3.config import PRESETS
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
def test_the_scan_and_single_steps_agree_in_states_and_gradients(classes: int) -> None:
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

    def gradients(stepwise: bool) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        state, stochastic, action, tokens = leaves
        noise = ReplayNoise({"stochastic": uniform})
        if stepwise:
            rows = []
            for t in range(TIME):
                rows.append(rssm.observe(state, stochastic, action[:, t], tokens[:, t], is_init[:, t], noise))
                state, stochastic, _ = rows[-1]
            outputs = [torch.stack(parts, 1) for parts in zip(*rows, strict=True)]
        else:
            outputs = list(rssm.observe_sequence(state, stochastic, action, tokens, is_init, noise))
            assert type(outputs[0].grad_fn.next_functions[0][0]).__name__ == "_ScanBackward"
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        learned = [*leaves, *(parameter for name, parameter in rssm.named_parameters() if not name.startswith("prior"))]
        return [output.detach() for output in outputs], list(torch.autograd.grad(loss, learned))

    for scanned, single in zip(gradients(stepwise=False), gradients(stepwise=True), strict=True):
        for ours, expected in zip(scanned, single, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, check_dtype=False)
