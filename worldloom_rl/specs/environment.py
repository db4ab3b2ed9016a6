"""What a model needs to know of an environment."""

from __future__ import annotations

from torchrl.data import Composite
from torchrl.envs import Compose, EnvBase, InitTracker, StepCounter, TensorDictPrimer, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase

from worldloom_rl import keys
from worldloom_rl.keys import as_tuple

_CARRIED = frozenset({keys.PLANNER_MEAN[0], keys.LATENT, keys.PREVIOUS_ACTION})  # by policies, from step to step
_STEP_COUNT = "step_count"  # StepCounter's


def specs_of(env: EnvBase) -> tuple[Composite, Composite]:
    """The un-batched observation and action specs of an environment, as a model takes them.

    What transforms add to the observations ("is_init", step counts, what policies carry) is left out.

    Raises TypeError for an environment that is not TorchRL's, ValueError if an observation of the environment's own has
    such a name, or another of the key contract.
    """
    if not isinstance(env, EnvBase):
        raise TypeError(
            f"The environment is a {type(env).__name__}, not TorchRL's: give worldloom_rl.envs.make_env of it or "
            "of its name, or wrap it in TorchRL's GymWrapper."
        )
    observation = env.observation_spec_unbatched.clone()
    for name in _added(env, observation):
        del observation[name]
    clashes = sorted(keys.RESERVED & set(observation.keys()))
    if clashes:
        raise ValueError(
            f"The observations {clashes} have names of the key contract; rename them, for example by TorchRL's "
            "RenameTransform."
        )
    return observation, env.full_action_spec_unbatched.clone()


def _added(env: EnvBase, observation: Composite) -> set[str]:
    """The names at the observation's root that are bookkeeping of transforms."""
    added: set[str] = set()
    while isinstance(env, TransformedEnv):
        for transform in env.transform if isinstance(env.transform, Compose) else [env.transform]:
            if isinstance(transform, InitTracker):
                added |= {as_tuple(key)[0] for key in transform.init_keys}
            elif isinstance(transform, StepCounter):
                added |= {as_tuple(key)[0] for key in transform.step_count_keys}
            elif isinstance(transform, TensorDictPrimer):
                added |= _CARRIED & set(transform.primers.keys())
        env = env.base_env
    names = set(observation.keys())
    if isinstance(env, BatchedEnvBase):  # transforms inside its workers don't show; integers can be no observation
        added |= _CARRIED | {keys.IS_INIT}
        added |= {name for name in names & {_STEP_COUNT} if not observation[name].dtype.is_floating_point}
    return added & names
