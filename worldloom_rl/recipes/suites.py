"""The official settings of suites of tasks, by the environment's name: what a run of such a task is told by itself.

An official code has settings of its own for most suites; its bare defaults are meant for none of the small ones. Those
of DreamerV3 stand here twice where they differ: as they were when its curves were made (April 2024, "published"), and
as its configs.yaml has them now ("today"). Sizes and numbers of environments are told, not set: the preset and
`num_envs` say them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from worldloom_rl.config import Json


@dataclass(frozen=True)
class Suite:
    """What an official code sets for a suite of tasks.

    Attributes:
        name: of the suite and of whose settings these are, for people.
        action_repeat: simulator steps of an action that `make_env` is told; None leaves the environment's own.
        numbers: of the model's configuration.
        train_ratio: DreamerV3's: rows learned from for each agent step; divided by the rows of a batch, updates a step.
        most_discount: TD-MPC2's γ of long episodes.
        official: what else the official runs had, for people.
    """

    name: str
    action_repeat: int | None = None
    numbers: Mapping[str, Json] = field(default_factory=dict)
    train_ratio: float | None = None
    most_discount: float | None = None
    official: str = ""

    def without(self, action_repeat: int | None, overrides: Sequence[str]) -> Suite:
        """What of it is left beside what a person says, which counts more."""
        said = {override.partition("=")[0].strip() for override in overrides}
        return replace(
            self,
            action_repeat=None if action_repeat is not None else self.action_repeat,
            numbers={name: value for name, value in self.numbers.items() if name not in said},
            train_ratio=None if "updates_per_step" in said else self.train_ratio,
            most_discount=None if "discount" in said else self.most_discount,
        )

    def __str__(self) -> str:
        """To end a run's first line; empty where there is no suite."""
        repeat = f", action repeat {self.action_repeat}" if self.action_repeat else ""
        ratio = f", train_ratio {self.train_ratio:g}" if self.train_ratio else ""
        numbers = "".join(f", {name} {value}" for name, value in self.numbers.items())
        discount = f", discount at most {self.most_discount:g}" if self.most_discount else ""
        told = f"{repeat}{ratio}{numbers}{discount}"
        return f"; {self.name}: official settings{told} (made with {self.official})" if self.name and told else ""


NO_SUITE = Suite("")

_DMC_PUBLISHED = Suite("DM Control, as published", 2, train_ratio=512, official="size12m, 8 environments")
_DMC_TODAY = Suite("DM Control, as today", 1, train_ratio=1024, official="size1m, 16 environments")
_DMC_PIXELS_TODAY = Suite("DM Control from images, as today", 1, train_ratio=256, official="size200m, 16 environments")
_ATARI = Suite("Atari", train_ratio=32, official="size200m, 16 environments")
_ATARI_100K = Suite("Atari 100k", train_ratio=256, official="size200m, 1 environment")
_CRAFTER = Suite("Crafter", train_ratio=512, official="size200m, 1 environment")
_TDMPC2_DMC = Suite("DM Control", 2, official="5M parameters, 1 environment")
_TDMPC2_GYMNASIUM = Suite(
    "Gymnasium's MuJoCo and Box2D", 1, {"rho": 0.7}, most_discount=0.99, official="5M parameters, 1 environment"
)
_GYMNASIUM_TASKS = (
    "Ant", "BipedalWalker", "BipedalWalkerHardcore", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup",
    "InvertedDoublePendulum", "InvertedPendulum", "LunarLander", "LunarLanderContinuous", "Pusher", "Reacher",
    "Swimmer", "Walker2d",
)  # fmt: skip


def dreamerv3_suite(env: str, *, pixels: bool, today: bool = False) -> Suite:
    """The settings of DreamerV3's authors for an environment of `make_env`, `NO_SUITE` where they have none."""
    family = env.partition(":")[0]
    if family == "dmc":
        now = _DMC_PIXELS_TODAY if pixels else _DMC_TODAY
        return now if today else _DMC_PUBLISHED
    if family in ("ale", "ale100k"):
        return _ATARI if family == "ale" else _ATARI_100K
    return _CRAFTER if family.lower().startswith("crafter") else NO_SUITE


def tdmpc2_suite(env: str) -> Suite:
    """The settings of TD-MPC2's authors for an environment of `make_env`, `NO_SUITE` where they have none."""
    if env.startswith("dmc:"):
        return _TDMPC2_DMC
    name, version, _ = env.partition("-v")
    return _TDMPC2_GYMNASIUM if version and name in _GYMNASIUM_TASKS else NO_SUITE
