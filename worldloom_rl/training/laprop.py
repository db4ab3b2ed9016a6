"""DreamerV3's optimiser: clipping relative to the weights, RMS scaling, momentum, and a learning rate that warms up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]  # of torch.optim: tensors and their settings
Schedule = Callable[[int], float]  # updates since the end of warm-up → factor of the learning rate


def constant_schedule(updates: int) -> float:
    """The learning rate stays."""
    return 1.0


class LaProp(torch.optim.Optimizer):
    """Momentum of gradients that are clipped to the size of their weights and divided by their running RMS.

    For every tensor p with gradient g, at its t-th update and with n updates of its group before it:

        g ← g / max(1, ‖g‖ / (agc · max(agc_floor, ‖p‖)))    norms of whole tensors
        ν ← β₂ ν + (1 − β₂) g²;    u = g / (√(ν / (1 − β₂ᵗ)) + eps)
        μ ← β₁ μ + (1 − β₁) u;     u = μ / (1 − β₁ᵗ)
        p ← p − η (u + weight_decay · p),    η = lr · min(n / warmup, 1) · schedule(n − warmup)

    The first update has learning rate 0 unless warmup is 0. Tensors without a gradient are left as they are.

    Args:
        params: float32 tensors, or groups of them with their own lr, betas, eps, agc, agc_floor, weight_decay, warmup.
        betas: (β₁ of momentum, β₂ of the RMS).
        agc: largest norm of a gradient relative to that of its weights; math.inf does not clip.
        agc_floor: least norm that weights count with, so that zeros can leave zero.
        warmup: updates until the learning rate is lr.
        schedule: what follows warm-up. It is code and not in the `state_dict`: pass the same again when resuming.
    Reference: Ziyin et al. 2020 (arXiv:2002.04839); Brock et al. 2021 (arXiv:2102.06171), adaptive gradient clipping;
        dreamerv3 embodied/jax/opt.py.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        agc_floor: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: int = 1000,
        schedule: Schedule = constant_schedule,
    ) -> None:
        self.schedule = schedule
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "agc": agc,
            "agc_floor": agc_floor,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "updates": 0,  # calls of `step` so far; in the group, so that it is saved with it
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Add tensors with settings of their own; those that are not named are the optimiser's."""
        _check(self.defaults | param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        other = [tuple(p.shape) for p in group["params"] if p.dtype != torch.float32]
        if other:
            self.param_groups.pop()
            raise ValueError(
                f"LaProp expects float32 tensors, got others of shapes {other}: its steps are lost in fewer digits. "
                "Keep the weights in float32 and compute under torch.autocast."
            )

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles of the optimiser keep the schedule."""
        state: dict[str, object] = super().__getstate__()
        return state | {"schedule": self.schedule}

    def learning_rates(self) -> list[float]:
        """Learning rate of the next update, for each group."""
        return [self._learning_rate(group) for group in self.param_groups]

    def _learning_rate(self, group: Group) -> float:
        base, updates, warmup = float(group["lr"]), int(group["updates"]), int(group["warmup"])
        if updates < warmup:
            return base * updates / warmup
        return base * self.schedule(updates - warmup)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all tensors that have a gradient; returns what the closure, if any, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_step: defaultdict[int, list[Tensor]] = defaultdict(list)  # one entry, but for tensors that were skipped
            for p in group["params"]:
                if p.grad is not None:
                    by_step[self._count(p)].append(p)
            for step, parameters in by_step.items():
                self._update(parameters, step, group)
            group["updates"] += 1
        return loss

    def _count(self, p: Tensor) -> int:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["square_average"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["momentum"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        return int(state["step"])

    def _update(self, parameters: list[Tensor], step: int, group: Group) -> None:
        beta_momentum, beta_square = group["betas"]
        learning_rate = self._learning_rate(group)
        squares = [self.state[p]["square_average"] for p in parameters]
        momenta = [self.state[p]["momentum"] for p in parameters]
        gradients = _clip(
            [p.grad for p in parameters if p.grad is not None], parameters, group["agc"], group["agc_floor"]
        )

        torch._foreach_mul_(squares, beta_square)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta_square)
        # g / (√(ν/c) + eps) = √c g / (√ν + √c eps), which spares a pass over all tensors.
        root = math.sqrt(1 - beta_square**step)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_add_(scales, root * group["eps"])
        torch._foreach_mul_(momenta, beta_momentum)
        torch._foreach_addcdiv_(momenta, gradients, scales, (1 - beta_momentum) * root)

        correction = 1 - beta_momentum**step
        updates = momenta
        if group["weight_decay"]:  # added to the update: a factor of 1 − 4e-6 on the weights would be rounded
            updates = list(torch._foreach_add(momenta, parameters, alpha=correction * group["weight_decay"]))
        torch._foreach_add_(parameters, updates, alpha=-learning_rate / correction)


def _clip(gradients: list[Tensor], parameters: list[Tensor], share: float, floor: float) -> list[Tensor]:
    """Gradients whose norm is at most this share of their weights' norm; the given ones stay as they are."""
    factors = torch._foreach_norm(parameters)
    torch._foreach_clamp_min_(factors, floor)
    torch._foreach_mul_(factors, share)
    torch._foreach_div_(factors, torch._foreach_norm(gradients))  # inf of a zero gradient becomes 1
    torch._foreach_clamp_max_(factors, 1.0)
    return list(torch._foreach_mul(gradients, factors))


def _check(group: Group) -> None:
    """Raise for settings that cannot be meant."""
    beta_momentum, beta_square = group["betas"]
    expected = {
        "lr": (group["lr"] >= 0, "at least 0"),
        "betas": (0 <= beta_momentum < 1 and 0 <= beta_square < 1, "two numbers in [0, 1)"),
        "eps": (group["eps"] > 0, "above 0"),
        "agc": (group["agc"] > 0, "above 0; math.inf does not clip"),
        "agc_floor": (group["agc_floor"] > 0, "above 0"),
        "weight_decay": (group["weight_decay"] >= 0, "at least 0"),
        "warmup": (group["warmup"] >= 0, "at least 0"),
    }
    for name, (holds, bounds) in expected.items():
        if not holds:
            raise ValueError(f"LaProp expects {name} {bounds}, got {group[name]}.")
