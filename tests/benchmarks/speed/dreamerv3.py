"""DreamerV3's workloads: vectors of 24 numbers or images of 64 x 64, 6 continuous actions."""

from __future__ import annotations

from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded

from speed.torchrl_peers import NO_UPDATE, acting_peer, imagining_peer
from speed.workload import Call, Mode, Workload
from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config, make_policy
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes.dreamerv3 import capture_gradients, make_losses, make_optimizer, update
from worldloom_rl.training.compilation import compile_modules
from worldloom_rl.training.cuda_graphs import CapturedPolicy, capture

OBSERVED, ACTIONS = 24, 6


def make_model(size: str, *, pixels: bool = False, compiled: bool = False) -> DreamerV3:
    """A preset for vectors or images."""
    _, config = find_preset(f"dreamerv3:{size}")
    assert isinstance(config, DreamerV3Config)
    leaf: TensorSpec = Unbounded((OBSERVED,))
    if pixels:
        leaf = Bounded(0, 255, shape=(3, 64, 64), dtype=torch.uint8)
    action_spec = Composite(action=Bounded(-1.0, 1.0, shape=(ACTIONS,), dtype=torch.float32))
    model = DreamerV3(config, Composite(observation=leaf), action_spec).eval()
    if compiled:
        compile_modules(model.step_modules())
    return model


def make_rows(model: DreamerV3, *shape: int) -> TensorDict:
    """Random rows as replay gives them."""
    leaf = model.observation_spec["observation"]
    images = leaf.dtype == torch.uint8
    observation = torch.randint(256, (*shape, *leaf.shape), dtype=torch.uint8) if images else torch.randn(*shape, 24)
    flag = torch.zeros(*shape, 1, dtype=torch.bool)
    rows = TensorDict(
        {
            "observation": observation,
            "previous_action": torch.rand(*shape, ACTIONS) * 2 - 1,
            "reward": torch.randn(*shape, 1),
            "terminated": flag,
            "truncated": flag.clone(),
            "is_init": flag.clone(),
        },
        batch_size=shape,
    )
    return model.write_latent(rows, model.initial_latent(shape))


def learn(size: str, batch: int, length: int, pixels: bool, mode: Mode) -> Call:
    """One update of everything; behaviour learns from 15 imagined steps from every row."""
    model = make_model(size, pixels=pixels, compiled=mode == "compiled")
    losses, optimizer = make_losses(model), make_optimizer(model)
    rows = make_rows(model, batch, length + model.config.replay_context)
    if mode == "recorded":
        capture_gradients(losses, optimizer)
    return lambda: update(losses, optimizer, rows)


def imagine(starts: int, horizon: int, mode: Mode) -> Call:
    """A rollout of the actor in imagination, without gradient and without heads, as the update begins with."""
    model = make_model("size12m", compiled=mode == "compiled")
    act = ActorPolicy(model, model.behavior.actor, sample_always=True).act_on
    latent = model.initial_latent((starts,))
    latent["deterministic"] = torch.randn_like(latent["deterministic"]).tanh()
    classes = torch.randint(model.config.classes, (starts, model.config.groups))
    latent["stochastic"] = torch.nn.functional.one_hot(classes, model.config.classes).to(torch.float32)

    def call(start: TensorDictBase) -> TensorDictBase:
        features, action = model.dream_features(model.read_latent(start), act, horizon, model.noise)
        return TensorDict({"features": features, "action": action})

    start = model.write_latent(TensorDict(batch_size=[starts]), latent)
    return partial(capture(call) if mode == "recorded" else call, start)


def act(environments: int, mode: Mode) -> Call:
    """One action in each environment: encode, filter, actor."""
    model = make_model("size12m", compiled=mode == "compiled")
    policy: TensorDictModuleBase = make_policy(model)
    if mode == "recorded":
        policy = CapturedPolicy(policy)
    row = make_rows(model, environments)

    def call() -> None:
        with torch.no_grad():
            policy(row.copy())

    return call


def _update(size: str, gflop: float, name: str, *, pixels: bool) -> Workload:
    batch, length = (4, 32) if pixels else (16, 64)
    seen = "images of 64 x 64" if pixels else "vectors"
    claim = f"DreamerV3 {size} learns from {batch} x {length} rows of {seen}, imagining 15 steps from each"
    return Workload(name, claim, partial(learn, size, batch, length, pixels), gflop, peers=(NO_UPDATE,))


WORKLOADS = [
    _update("size1m", 31.67, "dreamer-update-1m", pixels=False),
    _update("size12m", 470.3, "dreamer-update-12m", pixels=False),
    _update("size1m", 14.04, "dreamer-pixels-1m", pixels=True),
    _update("size12m", 174.8, "dreamer-pixels-12m", pixels=True),
    Workload(
        "imagine-12m",
        "DreamerV3 size12m imagines 15 steps from 1024 starts",
        partial(imagine, 1024, 15),
        179.3,
        peers=(imagining_peer(1024, 15),),
    ),
    Workload(
        "act-12m-1",
        "DreamerV3 size12m acts in one environment",
        partial(act, 1),
        0.012,
        repeats=20,
        peers=(acting_peer(1),),
    ),
    Workload(
        "act-12m-16",
        "DreamerV3 size12m acts in 16 environments",
        partial(act, 16),
        0.19,
        repeats=20,
        peers=(acting_peer(16),),
    ),
]
