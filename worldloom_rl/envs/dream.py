"""A world model's imagination as gymnasium environments: one dream, or many in one tensor step.

`commands.dream` opens runs and names for `gymnasium.make("worldloom/Dream-v0", model=…, horizon=…)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl.envs.dream_spaces import DreamtActions, Space, Values, View, view_of
from worldloom_rl.envs.simulator_output import Info, Step
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.world_model import Latent, WorldModel

Ending = Callable[[Tensor, Noise], Tensor]  # bool [B, 1] of probabilities [B, 1] that episodes go on, undiscounted

_MOST_SEEDS = 2**31 - 1


def ends_by_mode(goes_on: Tensor, noise: Noise) -> Tensor:
    """True where ending is the likelier; `ImaginationEnv(hard_termination=True)` asks the same."""
    return goes_on < 0.5


def ends_by_draw(goes_on: Tensor, noise: Noise) -> Tensor:
    """A draw: an end that is foreseen as possible comes as often."""
    return noise.uniform("ending", goes_on.shape, goes_on) >= goes_on


ENDINGS: dict[str, Ending] = {"mode": ends_by_mode, "sample": ends_by_draw}


# ---------------------------------------------------------------------- where dreams begin


class Starts(Protocol):
    """Where dreams begin."""

    def __call__(self, count: int, noise: Noise) -> Latent:
        """Latents [count, …]."""


class StoredLatents:
    """Begins at any of the latents [N] of a tensordict. Raises ValueError if it is empty, KeyError if it has none."""

    def __init__(self, model: WorldModel, rows: TensorDictBase) -> None:
        self.latents = {name: value.detach() for name, value in model.read_latent(rows.reshape(-1)).items()}
        if not rows.numel():
            raise ValueError("A dream begins at stored latents, but the tensordict of them is empty.")

    def __call__(self, count: int, noise: Noise) -> Latent:
        first = next(iter(self.latents.values()))
        chosen = noise.integers("start", len(first), (count,), first)
        return {name: value.index_select(0, chosen) for name, value in self.latents.items()}


class RealResets:
    """Begins where the real environment does: at the latent of what its reset shows.

    Args:
        env: of batch size [], which observes what the model reads; each reset is seeded by a draw.
    """

    def __init__(self, model: WorldModel, env: EnvBase) -> None:
        self.model, self.env = model, env
        shown = env.observation_spec
        for key in model.observation_keys:
            leaf, read = shown.get(key, None), model.observation_spec[key]
            if leaf is None or leaf.shape != read.shape:
                found = None if leaf is None else tuple(leaf.shape)
                raise ValueError(
                    f"The model reads {key!r} of shape {tuple(read.shape)}, the environment shows {found}: give the "
                    "environment that the model learned in."
                )

    def __call__(self, count: int, noise: Noise) -> Latent:
        model, like = self.model, self.model.action_space.center
        shown = []
        for seed in noise.integers("reset", _MOST_SEEDS, (count,), like).tolist():
            with torch.random.fork_rng():  # seeding an environment seeds torch too
                self.env.set_seed(seed)
                shown.append(self.env.reset().select(*model.observation_keys))
        observed = torch.stack(shown).to(like.device)
        return model.encode_latent(model.read_observation(observed), noise)


# ---------------------------------------------------------------------- the dream


def require_rewards(model: WorldModel) -> None:
    """Raise ValueError for a model that does not learn rewards."""
    if model.key_map.reward not in model.loss_keys:
        raise ValueError(
            f"{type(model).__name__} learns without rewards, so its dream has none to learn from: take a model of "
            "dreamerv3, tdmpc2 or tokens, or ImaginationEnv(model, reward=…) with a reward of your own."
        )


class Dreams:
    """B dreams side by side, on tensors.

    A step draws what the prediction of the model does, then the ending if it is drawn.

    Args:
        horizon: steps after which a dream is truncated.
        ending: one of `ENDINGS` or its name.
        view: what of the latent is observed, or the name of it, see `dream_spaces.VIEWS`.
    Raises ValueError for a model without learned rewards, and for names that there are not.
    """

    def __init__(
        self, model: WorldModel, count: int, *, horizon: int, starts: Starts, view: str | View, ending: str | Ending
    ) -> None:
        require_rewards(model)
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1 imagined step, got {horizon}.")
        if isinstance(ending, str) and ending not in ENDINGS:
            raise ValueError(f"A dream ends by {' or '.join(map(repr, ENDINGS))}, got {ending!r}.")
        self.model, self.horizon, self.starts = model.eval(), horizon, starts
        self.ending = ENDINGS[ending] if isinstance(ending, str) else ending
        self.view = view_of(model, view) if isinstance(view, str) else view
        self.actions = DreamtActions(model.action_space)
        device = model.action_space.center.device
        self._generator = torch.Generator(device)
        self.noise: Noise = GeneratorNoise(self._generator)
        self.latent = model.initial_latent((count,))
        self.steps = torch.zeros(count, dtype=torch.int64)
        self.continuation = torch.ones(count, 1)

    def seed(self, numbers: np.random.Generator) -> None:
        """All later draws follow from these numbers' next one."""
        self._generator.manual_seed(int(numbers.integers(2**63 - 1)))

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        """Begins anew where the bool rows [B] say so."""
        chosen = rows.nonzero().squeeze(-1)
        if not len(chosen):
            return
        place = chosen.to(self.model.action_space.center.device)
        for name, value in self.starts(len(chosen), self.noise).items():
            self.latent[name] = self.latent[name].index_copy(0, place, value.to(self.latent[name].dtype))
        self.steps[chosen] = 0
        self.continuation = self.continuation.index_fill(0, chosen, 1.0)

    @torch.no_grad()
    def step(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, terminated and truncated [B] of flat actions [B, A]."""
        self.latent, reward, continuation = self.model.predict_latent(self.latent, flat, self.noise)
        terminated = self.ending(continuation / self.model.learned_discount, self.noise).squeeze(-1).cpu()
        self.continuation = continuation.cpu()
        self.steps += 1
        return reward.squeeze(-1).double().cpu(), terminated, self.steps >= self.horizon

    @torch.no_grad()
    def observe(self) -> Values:
        """What is observed of the latents, [B, …] as the view's batched space has it."""
        return self.view(self.latent)

    def close(self) -> None:
        """Closes the real environment, where dreams begin in one."""
        if isinstance(self.starts, RealResets) and not self.starts.env.is_closed:
            self.starts.env.close()


class DreamEnv(gymnasium.Env[Values, Values]):
    """A dream of a world model, whose rewards and ends are foreseen. See `Dreams` for the arguments."""

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it on instances

    def __init__(
        self,
        model: WorldModel,
        *,
        horizon: int,
        starts: Starts,
        view: str | View = "features",
        ending: str | Ending = "mode",
    ) -> None:
        self.dreams = Dreams(model, 1, horizon=horizon, starts=starts, view=view, ending=ending)
        self.observation_space: Space = self.dreams.view.space
        self.action_space: Space = self.dreams.actions.space
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Values, Info]:
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.dreams.seed(self.np_random)
            self._seeded = True
        self.dreams.begin(torch.ones(1, dtype=torch.bool))
        return _row(self.dreams.observe(), 0), {"continue": 1.0}

    def step(self, action: Values) -> Step[Values]:
        dreams = self.dreams
        reward, terminated, truncated = dreams.step(dreams.actions.flat([action]))
        info: Info = {"continue": dreams.continuation.item()}
        return _row(dreams.observe(), 0), reward.item(), bool(terminated), bool(truncated), info

    def close(self) -> None:
        self.dreams.close()


class DreamVectorEnv(VectorEnv[Values, Values, np.ndarray]):
    """Dreams of a world model side by side: one tensor step for all. See `Dreams` for the arguments.

    A seed is of all of them together, and so is a list of seeds.

    Args:
        autoreset_mode: gymnasium's; a dream that ended begins anew at the next step, at the same, or when `reset` is
            told so by options={"reset_mask": bool [num_envs]}.
    """

    def __init__(
        self,
        model: WorldModel,
        num_envs: int,
        *,
        horizon: int,
        starts: Starts,
        view: str | View = "features",
        ending: str | Ending = "mode",
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.dreams = Dreams(model, num_envs, horizon=horizon, starts=starts, view=view, ending=ending)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self.dreams.view.space
        self.single_action_space = self.dreams.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = torch.zeros(num_envs, dtype=torch.bool)
        self._seeded = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[Values, Info]:
        if seed is not None and not isinstance(seed, int):
            given = [number for number in seed if number is not None]
            seed = int(np.random.SeedSequence(given).generate_state(1)[0]) if given else None
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.dreams.seed(self.np_random)
            self._seeded = True
        mask = (options or {}).get("reset_mask")
        rows = torch.ones(self.num_envs, dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
        self.dreams.begin(rows)
        self._ended &= ~rows
        return self.dreams.observe(), self._info()

    def step(self, actions: Values) -> tuple[Values, np.ndarray, np.ndarray, np.ndarray, Info]:
        dreams = self.dreams
        reward, terminated, truncated = dreams.step(dreams.actions.flat_batch(actions, self.num_envs))
        info: Info = {}
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            dreams.begin(self._ended)
            reward = reward.masked_fill(self._ended, 0.0)
            terminated, truncated = terminated & ~self._ended, truncated & ~self._ended
        self._ended = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and bool(self._ended.any()):
            last = dreams.observe(), self._info()
            for place in self._ended.nonzero().squeeze(-1).tolist():
                final = {"final_obs": _row(last[0], place), "final_info": _row(last[1], place)}
                info = self._add_info(info, final, place)
            dreams.begin(self._ended)
        info.update(self._info())
        return dreams.observe(), reward.numpy(), terminated.numpy(), truncated.numpy(), info

    def close_extras(self, **options: object) -> None:
        self.dreams.close()

    def _info(self) -> Info:
        return {"continue": self.dreams.continuation.squeeze(-1).double().numpy()}


def _row(batch: Values, place: int) -> Values:
    """One of a batch of observations."""
    if isinstance(batch, Mapping):
        return {name: _row(part, place) for name, part in batch.items()}
    return batch[place]
