"""The same work by TorchRL's own parts: MPPIPlanner, and DreamerV3's recurrent modules at size12m."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.modules import DreamerV3MLP, RSSMPosteriorV3, RSSMPriorV3, RSSMStateEstimatorV3
from torchrl.modules import MPPIPlanner as TorchRLPlanner
from torchrl.objectives.value import TDLambdaEstimator

from speed.workload import Call, Peer
from worldloom_rl.keys import LATENT
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.noise import ModeNoise
from worldloom_rl.world_model.env import ImaginationEnv

OBSERVED, ACTIONS = 24, 6
UNITS, DETERMINISTIC, GROUPS, CLASSES, BINS = 256, 2048, 32, 16, 255  # size12m


def plan(make_model: Callable[[], TDMPC2], environments: int) -> Call:
    """MPPI over our model as an environment: 512 candidates, 64 elites, 6 iterations, H 3."""
    model = make_model()
    central = ModeNoise()  # the estimator maps its network with torch.vmap, under which nothing may be drawn
    value = TensorDictModule(
        lambda z: model.behavior.value(z, None, central),
        in_keys=[(LATENT, "deterministic")],
        out_keys=["state_value"],
    )
    planner = TorchRLPlanner(
        ImaginationEnv(model),
        TDLambdaEstimator(gamma=0.99, lmbda=1.0, value_network=value),
        temperature=0.5,
        planning_horizon=model.config.horizon,
        optim_steps=model.config.iterations,
        num_candidates=model.config.num_samples,
        top_k=model.config.num_elites,
    )
    seen = torch.randn(environments, OBSERVED)
    observation = TensorDict({"observation": seen}, batch_size=[environments], device=seen.device)

    def call() -> None:
        with torch.no_grad():
            start = model.encode(observation.copy()).select(LATENT)
            planner(planner.env.reset(start, set_state=True))

    return call


def _parts() -> tuple[RSSMPriorV3, RSSMPosteriorV3, DreamerV3MLP, DreamerV3MLP]:
    sizes = {"hidden_dim": UNITS, "rnn_hidden_dim": DETERMINISTIC, "num_categoricals": GROUPS, "num_classes": CLASSES}
    prior = RSSMPriorV3(
        action_shape=(ACTIONS,), action_dim=ACTIONS, recurrent_model="block_gru", num_blocks=8, unimix=0.01, **sizes
    )
    posterior = RSSMPosteriorV3(obs_embed_dim=UNITS, use_rms_norm=True, unimix=0.01, **sizes)
    encoder = DreamerV3MLP(OBSERVED, None, depth=3, num_cells=UNITS)
    actor = DreamerV3MLP(DETERMINISTIC + GROUPS * CLASSES, 2 * ACTIONS, depth=3, num_cells=UNITS)
    return prior, posterior, encoder, actor


def _draw(actor: DreamerV3MLP, state: Tensor, belief: Tensor) -> Tensor:
    mean, raw = actor(belief, state).chunk(2, -1)
    return mean.tanh() + (0.9 * torch.sigmoid(raw + 2.0) + 0.1) * torch.randn_like(mean)


def act(environments: int) -> Call:
    """Encode, filter, actor, with TorchRL's estimator of the acting state."""
    prior, posterior, encoder, actor = _parts()
    policy = TensorDictSequential(
        TensorDictModule(encoder, in_keys=["observation"], out_keys=["encoded_latents"]),
        RSSMStateEstimatorV3(prior, posterior),
        TensorDictModule(partial(_draw, actor), in_keys=["state", "belief"], out_keys=["action"]),
    )
    row = TensorDict(
        {
            "observation": torch.randn(environments, OBSERVED),
            "state": torch.zeros(environments, GROUPS * CLASSES),
            "belief": torch.zeros(environments, DETERMINISTIC),
            "previous_action": torch.rand(environments, ACTIONS) * 2 - 1,
            "is_init": torch.zeros(environments, 1, dtype=torch.bool),
        },
        batch_size=[environments],
    )

    def call() -> None:
        with torch.no_grad():
            policy(row.copy())

    return call


def imagine(starts: int, horizon: int) -> Call:
    """Actor, prior, reward and continue heads, in a plain loop without an environment around them."""
    prior, _, _, actor = _parts()
    reward, goes_on = (DreamerV3MLP(DETERMINISTIC + GROUPS * CLASSES, n, depth=1, num_cells=UNITS) for n in (BINS, 1))
    classes = torch.randint(CLASSES, (starts, GROUPS))
    first = torch.nn.functional.one_hot(classes, CLASSES).to(torch.float32).flatten(-2)
    start = torch.randn(starts, DETERMINISTIC).tanh()

    def call() -> None:
        state, belief = first, start
        with torch.no_grad():
            for _ in range(horizon):
                _, state, belief = prior(state, belief, _draw(actor, state, belief))
                reward(belief, state).softmax(-1), goes_on(belief, state).sigmoid()

    return call


def planner_peer(make_model: Callable[[], TDMPC2], environments: int) -> Peer:
    """MPPIPlanner, which has neither a warm start nor policy trajectories and values every step."""
    note = "MPPIPlanner over the same model; no policy trajectories, a value at every step for TD(λ)"
    return Peer("torchrl", partial(plan, make_model, environments), note)


def acting_peer(environments: int) -> Peer:
    """The estimator of the acting state between TorchRL's perceptrons."""
    return Peer("torchrl", partial(act, environments), "RSSMStateEstimatorV3 between DreamerV3MLPs of the same sizes")


def imagining_peer(starts: int, horizon: int) -> Peer:
    """The prior in a loop."""
    return Peer("torchrl", partial(imagine, starts, horizon), "RSSMPriorV3 and DreamerV3MLPs in a plain loop")


NO_UPDATE = Peer(
    "torchrl",
    None,
    "not the same work: DreamerV3Loss takes networks of one's own; there is no ready model of this size",
)
