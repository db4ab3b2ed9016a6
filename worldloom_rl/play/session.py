"""A world and a model's dream of it side by side, both under the same actions: a person's, or the agent's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.atomic import write_bytes
from worldloom_rl.config import Json
from worldloom_rl.data.memories import Memories
from worldloom_rl.envs.drawn_world import Arrival, decoded_image, picture_of, smaller
from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.play.film import film, png
from worldloom_rl.play.opening import open_world
from worldloom_rl.specs.controls import Control, controls_of, flat_action
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recipe import AnyRecipe
from worldloom_rl.world_model import Latent, Prediction, WorldModel
from worldloom_rl.world_model.agent import Agent

_MOST, _DROPPED = 5000, 1000  # moments that are kept, and how many of the oldest are dropped at once
SLOWEST, FASTEST = 1.0, 60.0  # steps a second


class Side(NamedTuple):
    """One of the two at a moment: its picture as a PNG, and what it says of reward, going on and value."""

    picture: bytes
    reward: float | None
    continuation: float | None
    value: float | None


@dataclass(frozen=True)
class Moment:
    """Where world and dream stand after an action.

    Attributes:
        world: None where the world waits: its episode ended, or it could not be put back to where the dream began.
        dreaming: whether the dream goes on from itself; else it is the prediction of one step from what was observed.
        begins, ended: whether an episode of the world does here.
        error: distance of the dreamt latent from the one observed; `moved` is that of the latent from which the dream
            began, what foreseeing no change comes to.
        memory: distance of the memory that is the dream's picture; None where the model draws it.
        action: [A] flat, that led here.
        observed, dreamt: the latents.
        began: [F] features of the latent from which the dream began.
        carried: by the agent to its next action.
        state: of the simulator, to come back to.
    """

    world: Side | None
    dream: Side
    observed: Latent
    dreamt: Latent
    began: Tensor
    dreaming: bool = False
    begins: bool = False
    ended: bool = False
    error: float | None = None
    moved: float | None = None
    memory: float | None = None
    action: Tensor | None = None
    carried: TensorDictBase | None = None
    state: list[Json] | None = None


class Session:
    """What a person does in the world of a run and in its model's dream.

    As long as nobody dreams, the dream's side shows what one step before was foreseen of now. `dream_from` a moment
    lets it go on from itself under the actions that follow, and puts the world back to that moment, so that both can
    be compared; `wake` ends that. Where the model decodes no image, the dream is shown as the nearest memory, out of
    episodes that are played at first: every second one at random, the others by the actor, or where there is none by
    the run's policy.

    Args:
        model: of the run's newest checkpoint.
        memories: agent steps of these episodes.
        newer: weights that training has written since, asked for where an episode begins; None if there are none.

    Attributes:
        moments: since the beginning, or since a branch was left; `path` changes where any but the last did.
        dreaming: whether the dream goes on from itself.
        rate: steps a second that a page makes.
        without_agent: why the agent cannot play; "" if it can.
    """

    def __init__(
        self,
        recipe: AnyRecipe,
        config: RunConfig,
        model: WorldModel,
        *,
        seed: int = 0,
        memories: int = 400,
        newer: Callable[[], WorldModel | None] = lambda: None,
    ) -> None:
        self.model, self._newer = model, newer
        torch.manual_seed(seed)
        self.noise = model.noise = GeneratorNoise(torch.Generator(model.action_space.center.device).manual_seed(seed))
        self.world = open_world(config, model, seed)
        self.image = decoded_image(model)
        self.controls: list[Control] = controls_of(model.action_space)
        goals = self.world.gives_goals
        self.without_agent = "" if goals else f"{config.task} gives no goals, which {recipe.title} plans to."
        self.agent = None if self.without_agent else Agent(model, recipe.make_policy(model))
        # The critic of a run that explored values what is not yet known, which beside rewards would mislead.
        self._values = None if config.explore else getattr(model, "terminal_value", None)
        self._learns_rewards = as_tuple(model.key_map.reward) in {as_tuple(key) for key in model.loss_keys}
        self._memory_steps = memories
        self.memories: Memories[bytes] = Memories(model)
        self._gather()
        self.moments: list[Moment] = []
        self.path, self.dreaming, self.rate = 0, False, 10.0
        self._waiting: Moment | None = None  # where the world stands while it waits for a dream's end
        self.restart()

    def close(self) -> None:
        """Closes the world."""
        self.world.close()

    # ------------------------------------------------------------------ what a person does

    @torch.no_grad()
    def step(self, action: Sequence[float] | None = None) -> Moment:
        """The moment after an action: one number for each of `controls`, by default what the agent does.

        The agent acts on what it sees, in a dream on the dreamt latent. Where the world's episode has ended and nobody
        dreams, a new one begins instead.
        """
        now = self.moments[-1]
        if now.ended and not self.dreaming:
            return self.restart()
        model, carried = self.model, None
        start = now.dreamt if self.dreaming else now.observed
        if action is not None:
            flat = flat_action(self.controls, action).to(model.action_space.center)
        elif self.agent is None:
            raise ValueError(f"The agent cannot play: {self.without_agent}")
        else:
            flat, carried = self.agent.act(start, now.carried)
        flat = model.action_space.bounded(flat)
        began = now.began if self.dreaming else model.latent_features(now.observed)
        prediction = model.predict_latent(start, flat, self.noise)
        arrival = None if now.ended or self._waiting else self.world.step(flat)
        observed = now.observed
        if arrival is not None:
            observed = self._observe(now.observed, flat, arrival)
        return self._append(arrival, observed, prediction, began, ended=now.ended, action=flat, carried=carried)

    @torch.no_grad()
    def dream_from(self, at: int = -1) -> Moment:
        """The moment with that number, from which the dream goes on by itself; later ones are left."""
        at = range(len(self.moments))[at]
        present, moment = self.moments[-1], self.moments[at]
        if moment is not present and not self._waiting:
            if moment.state is None:
                self._waiting = present
            else:
                self.world.restore(moment.state)
        elif self._waiting and moment.state is not None:  # it can come along again
            self.world.restore(moment.state)
            self._waiting = None
        latent = moment.dreamt if moment.world is None else moment.observed
        picture, memory = self._dream_picture(latent)
        dream = moment.dream._replace(picture=picture, value=self._value(latent))
        begun = dataclasses.replace(
            moment, dream=dream, dreamt=latent, began=self.model.latent_features(latent), dreaming=True, memory=memory,
            error=None if moment.world is None else 0.0, moved=None if moment.world is None else 0.0,
        )  # fmt: skip
        self.moments[at:] = [begun]
        self.path += 1
        self.dreaming = True
        return begun

    def wake(self) -> Moment:
        """The moment at which the world stands, with which the dream goes again."""
        self.dreaming = False
        if self._waiting is not None:
            self.moments.append(self._waiting)
            self._waiting = None
        return self.moments[-1]

    @torch.no_grad()
    def restart(self) -> Moment:
        """The first moment of a new episode, by the newest weights."""
        weights = self._newer()
        if weights is not None:
            self.model.load_state_dict(weights.state_dict())
            self._gather()
        self.dreaming, self._waiting = False, None
        arrival = self.world.begin()
        latent = self._observe(None, None, arrival)
        known = Prediction(latent, torch.zeros(1), self.model.continuation(latent))
        return self._append(arrival, latent, known, self.model.latent_features(latent), begins=True)

    def gif(self, scale: int = 4) -> bytes:
        """All moments as an animation, world | dream, framed as on the page.

        Args:
            scale: most pixels for one of a picture's.
        """
        return film([(each.world and each.world.picture, each.dream.picture, each.dreaming) for each in self.moments],
                    rate=self.rate, scale=scale)  # fmt: skip

    def save_gif(self, file: str | Path) -> None:
        """The same as a file."""
        write_bytes(Path(file), self.gif())

    # ------------------------------------------------------------------ how a moment comes about

    def _append(
        self, arrival: Arrival | None, observed: Latent, prediction: Prediction, began: Tensor, *, ended: bool = False,
        begins: bool = False, action: Tensor | None = None, carried: TensorDictBase | None = None,
    ) -> Moment:  # fmt: skip
        dreamt = prediction.latent
        picture, memory = self._dream_picture(dreamt)
        reward = float(prediction.reward) if self._learns_rewards and not begins else None
        dream = Side(picture, reward, float(prediction.continuation), self._value(dreamt))
        world, error, moved = None, None, None
        if arrival is not None:
            seen, ended = png(arrival.picture), arrival.ended
            world = Side(seen, None if begins else arrival.reward, float(not arrival.terminated), self._value(observed))
            features = self.model.latent_features(observed)
            error = float((self.model.latent_features(dreamt) - features).norm())
            moved = float((features - began).norm())
            if self.image is None:
                self.memories.add(observed, seen)
        state = None if arrival is None else self.world.state()
        told = self.dreaming, begins, ended, error, moved, memory, action, carried, state
        self.moments.append(Moment(world, dream, observed, dreamt, began, *told))
        if len(self.moments) > _MOST:
            del self.moments[:_DROPPED]
            self.path += 1
        return self.moments[-1]

    def _observe(self, previous: Latent | None, action: Tensor | None, arrival: Arrival) -> Latent:
        """The latent of what arrived; without a previous one, of an episode's first observation."""
        model, device = self.model, self.world.device
        is_init = torch.tensor([previous is None], device=device)
        before = model.initial_latent(()) if previous is None else previous
        given = torch.zeros(model.action_space.width, device=device) if action is None else action
        return model.filter_latent(before, given, arrival.observation, is_init, self.noise)

    def _dream_picture(self, latent: Latent) -> tuple[bytes, float | None]:
        """A PNG of a latent, and where that is the nearest memory's, its distance."""
        if self.image is not None:
            return png(smaller(picture_of(self.model.decode_latent(latent)[self.image]))), None
        recalled = self.memories.recall({name: value.unsqueeze(0) for name, value in latent.items()})
        return recalled.seen[0], float(recalled.distance)

    def _value(self, latent: Latent) -> float | None:
        return None if self._values is None else float(self._values(latent, self.noise))

    @torch.no_grad()
    def _gather(self) -> None:
        """New memories, where pictures come from them."""
        if self.image is not None:
            return
        self.memories = Memories(self.model)
        latent: Latent | None = None
        action: Tensor | None = None
        episodes, carried, ended = 0, None, True
        # An actor is cheaper than a plan.
        actor = self.agent
        if actor is not None and hasattr(self.model, "make_actor"):
            actor = Agent(self.model, TensorDictSequential(self.model.make_actor()))
        for _ in range(max(1, self._memory_steps)):
            if ended:
                arrival, latent, carried, episodes = self.world.begin(), None, None, episodes + 1
            else:
                assert action is not None
                arrival = self.world.step(action)
            latent, ended = self._observe(latent, action, arrival), arrival.ended
            self.memories.add(latent, png(arrival.picture))
            if actor is not None and episodes % 2:
                action, carried = actor.act(latent, carried)
            else:
                action = self.model.action_space.flatten(self._random_action()).to(self.world.device)

    def _random_action(self) -> dict[NestedKey, Tensor]:
        drawn = self.model.action_spec.rand()
        return {key: drawn[key] for key in self.model.action_keys}
