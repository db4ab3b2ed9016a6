"""The specs of an environment as a model takes them."""

from __future__ import annotations

from torchrl.data import Composite
from torchrl.envs import EnvBase


def specs_of(env: EnvBase) -> tuple[Composite, Composite]:
    """The un-batched observation and action specs of an environment, as a model takes them.

    Bookkeeping that transforms add to the observations ("is_init", step counts, carried planner state) is left out.
    """
    observation = env.observation_spec_unbatched.clone()
    for key in ("is_init", "step_count", "planner", "latent", "previous_action"):
        if key in observation.keys():  # noqa: SIM118 (a spec is no mapping)
            del observation[key]
    return observation, env.full_action_spec_unbatched.clone()
