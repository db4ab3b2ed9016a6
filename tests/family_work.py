"""What every registered family does with its smallest model: learns from rows, acts and imagines, on any device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.models.tdmpc2 import PolicyLoss
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import dreamerv3 as dreamerv3_recipe
from worldloom_rl.recipes import jepa as jepa_recipe
from worldloom_rl.recipes import tdmpc2 as tdmpc2_recipe
from worldloom_rl.recipes import tokens as tokens_recipe
from worldloom_rl.world_model import WorldModel

Metrics = dict[str, Tensor]
Update = Callable[[TensorDict, "Noise | None"], Metrics]

ROWS = {
    "dreamerv3": (2, 9), "frozen_jepa": (2, 5), "jepa": (4, 5), "tdmpc2": (8, 4), "tokens": (2, 9), "vjepa2": (2, 4),
}  # fmt: skip
FAMILIES = tuple(ROWS)
JEPA_FEW = {"execute": 1, "num_samples": 16, "num_elites": 4, "iterations": 2}
FEW_SAMPLES = {
    "tdmpc2": {"num_samples": 16, "num_elites": 4, "num_policy_trajectories": 2},
    "jepa": JEPA_FEW,
    "frozen_jepa": JEPA_FEW,
}


def make_model(family: str) -> Any:
    """The preset "tiny" with its default specs, its weights moved a little: heads that begin at zero say something."""
    found, config = find_preset(f"{family}:tiny")
    torch.manual_seed(0)
    model = found.model_class(config, *found.model_class.default_specs()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * parameter.requires_grad)
    return model


def make_rows(model: WorldModel, *shape: int) -> TensorDict:
    """Random arrival rows on the CPU; a new episode begins in the first stream's third row."""
    rows = model.observation_spec.rand(torch.Size(shape))
    action = model.action_spec.rand(torch.Size(shape))
    for key, previous in zip(model.action_keys, model.previous_action_keys, strict=True):
        rows.set(previous, action.get(key))
    rows.set(model.key_map.reward, torch.randn(*shape, 1))
    for key in (model.key_map.is_init, model.key_map.terminated, "truncated"):
        rows.set(key, torch.zeros(*shape, 1, dtype=torch.bool))
    if len(shape) > 1:
        rows[model.key_map.is_init][0, 2] = True
    latent = model.initial_latent(shape)
    return model.write_latent(rows, {name: value.cpu() for name, value in latent.items()})


def make_policy(model: Any) -> TensorDictSequential:
    """How the family acts; planners plan at every step, from few samples."""
    return model.make_policy(**FEW_SAMPLES.get(model.model_type, {}))


def acting_row(model: WorldModel, policy: TensorDictSequential, count: int = 3) -> TensorDict:
    """What an environment hands to the policy, on the CPU: the first episode begins, the others go on."""
    row = make_rows(model, count)
    for module in policy:
        if hasattr(module, "make_tensordict_primer"):
            row.update(module.make_tensordict_primer().primers.zero(row.batch_size))
    with torch.no_grad():
        row.update(model.encode(row.copy()).select(*model.latent_keys))
    row[model.key_map.is_init][0] = True
    return row


def imagined(model: Any, start: TensorDict, noise: Noise | None = None, horizon: int = 3) -> TensorDict:
    """Steps from latents, as the model's own actor would go where it has one, else of given actions."""
    if hasattr(model, "make_actor"):
        return model.imagine(start, model.make_actor(), horizon=horizon, noise=noise)
    actions = torch.linspace(-1, 1, horizon, device=model.action_space.center.device)
    actions = actions.unsqueeze(-1).expand(*start.batch_size, horizon, model.action_space.width)
    return model.imagine(start, actions=actions, noise=noise)


def make_update(model: Any) -> Update:
    """The recipe's update; where the family has no recipe, a step of Adam on the sum of its terms."""
    return UPDATES.get(model.model_type, adam_update)(model)


def dreamerv3_update(model: Any) -> Update:
    learning = dreamerv3_recipe.make_losses(model), dreamerv3_recipe.make_optimizer(model)
    return lambda batch, noise: dreamerv3_recipe.update(*learning, batch, noise)[0]


def tdmpc2_update(model: Any) -> Update:
    losses = WorldModelLoss(model, model.loss_weights), PolicyLoss(model)
    return partial(tdmpc2_recipe.update, model, *losses, tdmpc2_recipe.make_optimizers(model))


def tokens_update(model: Any) -> Update:
    """An update of everything, as late in a run."""
    parts = tokens_recipe.make_losses(model), tokens_recipe.make_optimizer(model)
    late = max(model.config.tokenizer_updates, model.config.behavior_start)
    return lambda batch, noise: tokens_recipe.update(*parts, batch, late, noise)


def jepa_update(model: Any) -> Update:
    return partial(jepa_recipe.update, jepa_recipe.make_learning(model, 10))


def adam_update(model: Any) -> Update:
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad])
    return partial(_step, model, optimizer)


UPDATES = {"dreamerv3": dreamerv3_update, "jepa": jepa_update, "tdmpc2": tdmpc2_update, "tokens": tokens_update}


def _step(model: WorldModel, optimizer: torch.optim.Adam, batch: TensorDict, noise: Noise | None) -> Metrics:
    model.train()
    losses = model.compute_loss(batch, noise)[0]
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    return {name: loss.detach().mean() for name, loss in losses.items()}
