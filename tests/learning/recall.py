"""DreamerV3 on Recall, which only memory wins, and beside it the same agent whose latent is reset at each step.

`python tests/learning/recall.py SEED [DIRECTORY]` trains both, plays a random policy, and writes their results. An
agent forgets because its environments say at each step that an episode begins: so it acts and so it learns.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from test_learning import keep
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.transforms import Transform

from worldloom_rl.keys import IS_INIT
from worldloom_rl.recipes import dreamerv3

RECALL: dict[str, Any] = {
    "env": "worldloom/Recall-v0",
    "steps": 4000,
    "eval_every": 500,
    "eval_episodes": 40,
    "final_eval_episodes": 200,
    "checkpoint_every": 500,
    "overrides": ("batch_size=8", "imagination_starts=0", "learning_rate=1e-3", "updates_per_step=0.5"),
}


class EveryStepBegins(Transform):
    """Says at each step that an episode begins, so that no latent is carried."""

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(IS_INIT, torch.ones_like(next_tensordict[IS_INIT]))


@dataclass(frozen=True, kw_only=True)
class ForgetfulConfig(dreamerv3.Config):
    """A run whose environments let nothing be remembered."""

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        return TransformedEnv(super().make_env(num_envs, seed), EveryStepBegins())


def main(seed: int, directory: Path) -> None:
    """Both runs, one after the other."""
    for name, config_class in (("recall", dreamerv3.Config), ("recall-without-memory", ForgetfulConfig)):
        run = dreamerv3.train(config_class(**RECALL, seed=seed, run_directory=str(directory / f"{name}-{seed}")))
        keep("dreamerv3", name, run)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()))
