"""Everything that a plan is told beside the model and what it sees: numbers, and four functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.draws import Draws, white
from worldloom_rl.planners.termination import soft_continue
from worldloom_rl.world_model import Latent, RewardFunction

LatentFunction = Callable[[Latent, Noise], Tensor]
Bonus = Callable[[Latent, Tensor], Tensor]  # [..., 1] of a latent before a step and its flat action [..., A]
TerminationRule = Callable[[Tensor, Tensor], Tensor]
PerDimension = float | Sequence[float]  # one number, or one a dimension of the flat action


@dataclass(frozen=True)
class PlanOptions:
    """The options of sampling planners; those per dimension are checked where they meet the model's actions.

    Flat actions have the range [-1, 1]; deviations and bounds are in its units. Of discrete actions (an extension) the
    probabilities are refitted.
    """

    # How much is searched
    horizon: int = 5  # H, steps of a sequence
    iterations: int = 6  # rounds of sampling and refitting
    num_samples: int = 512  # N, sequences evaluated a round
    num_elites: int = 64  # K, best sequences to which the distribution is refitted
    num_policy_trajectories: int = 0  # of the N sequences, how many are rollouts of `policy_prior`
    include_mean: bool = False  # one sample is the mean itself
    keep_elites: int = 0  # best sequences of an iteration that stand among the samples of the next one
    carry_elites: int = 0  # best sequences of a plan that stand, moved on, among the first samples of the next plan
    decay: float = 1.0  # what is left of N in each further iteration, at least twice K and what stands there already

    # Where a plan starts
    warm_start: bool = True  # from the previous plan, moved by the actions executed; False starts every plan anew
    init_mean: PerDimension = 0.0  # of a fresh start
    init_std: PerDimension | None = None  # of every plan, by default max_std; a dimension of std 0 stays at its mean

    # Samples and refitting
    low: PerDimension = -1.0  # bounds of sampled continuous dimensions, inside the action's own
    high: PerDimension = 1.0
    draws: Draws = white  # deviations of continuous dimensions from the mean, along a sequence
    clip: bool = True  # keep samples within the bounds; False lets the model see what the environment will cut
    min_std: float = 0.0  # bounds of the refitted standard deviation
    max_std: float = 2.0
    unbiased_std: bool = False  # divide the squared deviations of elites that weigh the same by K − 1, not K
    momentum: PerDimension = 0.0  # share of the previous mean kept when refitting, in [0, 1)
    momentum_std: PerDimension | None = None  # and of the previous std, by default the same
    floor: float = 0.05  # share of uniform mass in refitted categoricals

    # What is done with a plan
    execute: int = 1  # E, its actions executed before the next one is made; the environment carries the others

    # What a sequence is worth
    reward: RewardFunction | None = None  # of the latents before and after a step, in place of the predicted one
    bonus: Bonus | None = None  # added to the reward of each step; of disagreement see `weighed_disagreement`
    terminal_value: LatentFunction | None = None  # [..., 1], of what follows the horizon
    termination: TerminationRule = soft_continue  # how predicted continuation weighs later steps
    policy_prior: LatentFunction | None = None  # flat actions [..., A] of `num_policy_trajectories`

    def __post_init__(self) -> None:
        for name in ("horizon", "iterations", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 1 <= self.num_elites <= self.num_samples:
            raise ValueError(f"num_elites {self.num_elites} must be between 1 and num_samples {self.num_samples}.")
        if not 0 <= self.num_policy_trajectories <= self.num_samples:
            raise ValueError(
                f"num_policy_trajectories {self.num_policy_trajectories} must be between 0 and num_samples "
                f"{self.num_samples}."
            )
        if self.num_policy_trajectories and self.policy_prior is None:
            raise ValueError("num_policy_trajectories needs a policy_prior; give one, or set it to 0.")
        if not 0.0 <= self.min_std <= self.max_std:
            raise ValueError(
                f"The standard deviation needs 0 <= min_std <= max_std, got {self.min_std} and {self.max_std}."
            )
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor is a share of probability mass in [0, 1], got {self.floor}.")
        if not 1 <= self.execute <= self.horizon:
            raise ValueError(f"A plan of {self.horizon} actions (horizon) cannot give {self.execute} (execute).")
        for name in ("keep_elites", "carry_elites"):
            if not 0 <= getattr(self, name) <= self.num_elites:
                raise ValueError(f"{name} {getattr(self, name)} must be between 0 and num_elites {self.num_elites}.")
        elites = max(self.keep_elites, self.carry_elites)
        if (elites or self.include_mean) and self.num_policy_trajectories + elites >= self.num_samples:
            raise ValueError(
                f"Of {self.num_samples} samples, {self.num_policy_trajectories} policy trajectories and "
                f"{elites} kept elites leave none to be drawn; raise num_samples."
            )
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}.")
        if self.unbiased_std and self.num_elites < 2:
            raise ValueError("unbiased_std needs at least 2 elites.")

    def samples_of(self, number: int, given: int) -> int:
        """Sequences of an iteration, counted from 0, of which so many are given."""
        least = max(2 * self.num_elites, given + 1)
        return min(self.num_samples, max(int(self.num_samples * self.decay**number), least))


class PlanKeywords(TypedDict, total=False):
    """The fields of `PlanOptions` as the keywords that planners take, for type checkers."""

    horizon: int
    iterations: int
    num_samples: int
    num_elites: int
    num_policy_trajectories: int
    include_mean: bool
    keep_elites: int
    carry_elites: int
    decay: float
    warm_start: bool
    init_mean: PerDimension
    init_std: PerDimension | None
    low: PerDimension
    high: PerDimension
    draws: Draws
    clip: bool
    min_std: float
    max_std: float
    unbiased_std: bool
    momentum: PerDimension
    momentum_std: PerDimension | None
    floor: float
    execute: int
    reward: RewardFunction | None
    bonus: Bonus | None
    terminal_value: LatentFunction | None
    termination: TerminationRule
    policy_prior: LatentFunction | None
