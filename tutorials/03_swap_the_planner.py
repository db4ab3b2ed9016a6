# %% [markdown]
# # Swap the planner
# Every family has the same verbs, so actors and planners can change places: MPPI plans through a DreamerV3 model, with
# its critic as terminal value, and an actor learns in the imagination of a TD-MPC2 model.

# %%
import os
from functools import partial

import torch
from tensordict.nn import TensorDictSequential

from worldloom_rl.models.dreamerv3 import make_planner, make_policy
from worldloom_rl.models.tdmpc2 import make_policy as make_tdmpc2_policy
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.objectives import ActorPolicy, ImaginedActorCriticLoss
from worldloom_rl.planners import Planner, PlanOptions
from worldloom_rl.planners.plan import plan
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.training import loop
from worldloom_rl.training.evaluate import evaluate, with_primers
from worldloom_rl.training.options import RunConfig

STEPS = int(os.environ.get("TUTORIAL_STEPS", "2500"))  # agent steps of each family; a test runs fewer
EPISODES = 10 if STEPS > 1000 else 2
SETTINGS = {"env": "Pendulum-v1", "action_repeat": 2, "time_limit": min(200, STEPS), "steps": STEPS}


def returns(config: RunConfig, policy: TensorDictSequential) -> float:
    """Mean return of whole episodes, played side by side."""
    env = with_primers(config.make_env(EPISODES, seed=1), policy)
    return evaluate(env, policy, config.steps, seed=1).mean_return


# %% [markdown]
# ## MPPI through DreamerV3
# The recipe's own agent first. Then the planner takes the actor's place in the policy; it needs of the model only its
# prediction, its reward and its features.

# %%
dreamer_config = dreamerv3.Config(**SETTINGS)
dreamer = dreamerv3.make_state(dreamer_config)
while dreamer.agent_steps < STEPS:
    loop.step(dreamerv3.RECIPE, dreamer)

model = dreamer.model
planner = make_planner(model, horizon=5, iterations=4, num_samples=128, num_elites=16, num_policy_trajectories=16)
planning = TensorDictSequential(model.observe, planner, model.carry_action)
print(f"DreamerV3's actor: return {returns(dreamer_config, make_policy(model)):.0f}")
print(f"MPPI through the same model: return {returns(dreamer_config, planning):.0f}")

# %% [markdown]
# ## A planner of your own
# A planner is two functions: how much each of the best sequences weighs, and what is executed. The numbers are fields
# of `PlanOptions`. Here all of the best weigh by their rank, and the best of them is executed.


# %%
def score(elite_value: torch.Tensor) -> torch.Tensor:
    weight = torch.arange(elite_value.shape[-1], 0, -1, device=elite_value.device).expand_as(elite_value)
    return weight / weight.sum(-1, keepdim=True)


def choose(space, mean, elites, weight, noise):
    return elites[:, :, 0]


options = PlanOptions(horizon=5, iterations=4, num_samples=128, num_elites=16)
ranking = Planner(model, options, partial(plan, score=score, choose=choose))
returns_of_ranking = returns(dreamer_config, TensorDictSequential(model.observe, ranking, model.carry_action))
print(f"A planner of our own through the same model: return {returns_of_ranking:.0f}")

# %% [markdown]
# ## An actor in TD-MPC2's imagination
# `ImaginedActorCriticLoss` asks a model only to imagine. The actor-critic is new, over this model's features; the
# start latents are those of replayed rows.

# %%
tdmpc2_config = tdmpc2.Config(**SETTINGS, seed_steps=min(500, STEPS // 2))  # of random actions before learning
state = tdmpc2.make_state(tdmpc2_config)
while state.agent_steps < STEPS or state.updates_due >= 1:
    loop.step(tdmpc2.RECIPE, state)

model = state.model
width = model.latent_features(model.initial_latent()).shape[-1]
behavior = ActorCritic(width, model.action_space, units=64)
loss = ImaginedActorCriticLoss(model, behavior, horizon=5)
optimizer = torch.optim.Adam([p for p in behavior.parameters() if p.requires_grad], lr=1e-3)
for _ in range(STEPS // 2):
    with torch.no_grad():
        start = model.encode(state.sample()[:, 0])
    losses = loss(start)
    (losses["loss_actor"] + losses["loss_critic"]).backward()
    optimizer.step()
    optimizer.zero_grad()
    behavior.update_slow()

acting = TensorDictSequential(model.encode, ActorPolicy(model, behavior.actor))
print(f"TD-MPC2's planner: return {returns(tdmpc2_config, make_tdmpc2_policy(model)):.0f}")
print(f"an actor that learned in its imagination: return {returns(tdmpc2_config, acting):.0f}")
