"""Train a JEPA without rewards: `train(Config(env="worldloom/PointRoom-v0"))`, `train(Config(data=("minari:NAME",)))`.

Read `update` for one gradient update; the rest is set-up. All updates come after the data is there: collected in an
environment by random or given actions, or recorded before.
Reference: galilai-group/stable-worldmodel, scripts/train/lewm.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchrl.collectors import Collector
from torchrl.data import Composite

from worldloom_rl import ranks
from worldloom_rl.data import Arrivals, Episodes, Replay, open_episodes
from worldloom_rl.data.action_blocks import action_block_spec, action_blocks
from worldloom_rl.data.episodes import TASK
from worldloom_rl.data.laws import WithinLaw
from worldloom_rl.data.opening import check_actions
from worldloom_rl.envs import episode_length
from worldloom_rl.keys import GOAL, IS_INIT, as_tuple, previous_action_keys
from worldloom_rl.models.jepa import JEPA, JEPAConfig
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.recipes.options import JEPARunConfig as Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.clock import UPDATES
from worldloom_rl.training.collection_policy import collection_policy
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.finite import GRADIENT, check_finite
from worldloom_rl.training.foresight import Z_STD, foresight
from worldloom_rl.training.recipe import Recipe, RunState
from worldloom_rl.training.recorded import Recorded, split
from worldloom_rl.training.replay import check_window, make_replay
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import Collected, Saved, Source, closed_on_error

_COLLAPSED = 0.1  # standard deviation of embeddings below which they tell too little to plan with
_MOST_ROWS = 1000  # of a recorded episode, that an evaluation looks at

# ------------------------------------------------------------------ one gradient update


@dataclass
class Learning:
    """The loss and what steps the weights."""

    loss: WorldModelLoss
    optimizer: torch.optim.AdamW
    schedule: LambdaLR


def make_learning(model: JEPA, updates: int) -> Learning:
    """AdamW for all weights; its rate rises over the first share `warmup` of the updates and falls as a cosine."""
    config = model.config
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    warmup = warmup_updates(config, updates)

    def rate(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - warmup) / max(1, updates - warmup))))

    return Learning(WorldModelLoss(model, model.loss_weights), optimizer, LambdaLR(optimizer, rate))


def warmup_updates(config: JEPAConfig, updates: int) -> int:
    """Updates over which the learning rate rises."""
    return math.ceil(config.warmup * updates)


def update(
    learning: Learning, batch: TensorDictBase, noise: Noise | None = None, *, bfloat16: bool = False
) -> dict[str, Tensor]:
    """One update from rows [B, H + 1]. Returns metrics as tensors: the losses, their sum, "z_std" and "grad_norm".

    Raises FloatingPointError, with the weights as they were, if a loss or a gradient is not finite.
    """
    model = learning.loss.model
    model.train()
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
        losses, posterior = learning.loss(batch, noise)
    terms = losses.to_dict()
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    ranks.average_gradients(model.parameters())
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), model.config.grad_clip_norm)
    try:
        check_finite({**terms, GRADIENT: grad_norm}, batch, model)
        learning.optimizer.step()
    finally:
        learning.optimizer.zero_grad()
    learning.schedule.step()
    model.eval()
    regularizer = total - terms["loss_prediction"]
    metrics = {**terms, "loss": total, "loss_regularizer": regularizer, "grad_norm": grad_norm}
    return {name: value.detach() for name, value in metrics.items()} | {Z_STD: posterior[Z_STD].mean()}


def action_statistics(model: JEPA, source: Source, frame_skip: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [A] of the model's flat action over all rows; one-hot columns keep 0 and 1.

    A block's actions share their columns' numbers, as the official code normalises before it makes blocks.
    """
    stored = previous_action_keys(model.action_keys)
    rows = source.entries(IS_INIT, *stored)
    arrived = ~rows[IS_INIT].reshape(-1)
    space = model.action_space
    actions = {}
    for key, name in zip(model.action_keys, stored, strict=True):
        single = rows[name][arrived].unsqueeze(1)
        block = single.expand(len(single), frame_skip, *single.shape[2:]).reshape(-1, *model.action_spec[key].shape)
        actions[key] = block.to(space.center.device)
    flat = torch.cat(ranks.gathered(space.flatten(actions)))  # replays may hold different numbers of rows
    std, mean = torch.std_mean(flat, 0, correction=0)
    return torch.where(space.continuous, mean, 0.0), torch.where(space.continuous, std, 1.0)


# ------------------------------------------------------------------ the run


MakeModel = Callable[[Composite, Composite], JEPA]


@dataclass(kw_only=True)
class State(RunState[Config, JEPA]):
    """A run's state: the model, its learning, rows and counters."""

    learning: Learning


def make_state(config: Config) -> State:
    """A fresh state, with the environment open or the recorded episodes read. Randomness is seeded here."""
    return state_of(config, lambda *specs: JEPA(config.model_config, *specs).to(config.device).eval())


def state_of(config: Config, make_model: MakeModel) -> State:
    """A state with the model that is made for what is observed and for blocks of `frame_skip` actions."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return _recorded_state(config, make_model) if config.data else _collected_state(config, make_model)


def _collected_state(config: Config, make_model: MakeModel) -> State:
    policy = collection_policy(config.policy)
    with closed_on_error(config.make_collection_env(config.num_envs, ranks.process_seed(config.seed))) as env:
        observation_spec, action_spec = specs_of(env)
        model = make_model(observation_spec, action_block_spec(action_spec, config.frame_skip))
        check_window(_window(config, model), episode_length(env), "--overrides history=1, or a smaller --frame-skip")
        collector = Collector(
            env,
            policy.make(env),
            frames_per_batch=config.num_envs,
            total_frames=-1,
            auto_register_policy_transforms=policy.carries,
            storing_device="cpu",
        )
        told = f"{config.collect} agent steps of {policy} actions"
        arrivals = Arrivals(model.frame_keys, model.action_keys)
        replay = _make_replay(config, model, arrivals, action_spec)
        source = Collected(replay, arrivals, collector, config.num_envs, told)
        return _state(config, model, source, learning_starts=config.collect)


def _recorded_state(config: Config, make_model: MakeModel) -> State:
    recording = open_episodes(config.data, image_size=config.image_size)
    observation_spec, action_spec = recording.observation_spec.clone(), recording.action_spec
    if recording.several:
        del observation_spec[TASK]  # one model of all tasks, which is not told which one it sees
    if config.env:
        env = config.make_collection_env(1, config.seed)
        observation_spec, action_spec = specs_of(env)
        env.close()
        _check_alike(config, recording, observation_spec, action_spec)
    model = make_model(observation_spec, action_block_spec(action_spec, config.frame_skip))
    learned, held_out = split(recording, config.held_out, config.seed)
    rows = int(recording.lengths[learned].sum())
    told = f"{len(learned)} episodes with {rows} frames, {len(held_out)} held out"
    arrivals = Arrivals(model.frame_keys, model.action_keys)
    replay = _make_replay(config, model, arrivals, action_spec, rows)
    source = Recorded(replay, arrivals, recording, learned, told)
    return _state(config, model, source, learning_starts=0)


def _state(config: Config, model: JEPA, source: Source, learning_starts: int) -> State:
    return State(
        config=config,
        model=model,
        learning=make_learning(model, config.steps),
        source=source,
        learning_starts=learning_starts,
        updates_due=float(config.steps),
    )


def _make_replay(
    config: Config, model: JEPA, arrivals: Arrivals, action_spec: Composite, rows: int | None = None
) -> Replay:
    window, batch_size = _window(config, model), model.config.batch_size
    return make_replay(
        config, model, arrivals, window=window, batch_size=batch_size, by=WithinLaw, action_spec=action_spec, rows=rows
    )


def _window(config: Config, model: JEPA) -> int:
    """Rows that are learned from at once."""
    return model.config.history * config.frame_skip + 1


def _check_alike(config: Config, recording: Episodes, observation_spec: Composite, action_spec: Composite) -> None:
    """Raises ValueError if what was recorded is not what the environment gives and takes."""
    observed, taken = (recording.observation_spec, observation_spec), (recording.action_spec, action_spec)
    for role, pair in (("observation", observed), ("action", taken)):
        theirs, ours = map(_forms, pair)
        if ours != theirs:
            raise ValueError(
                f"{config.env} and {recording.source} differ in their {role}s: {ours} in the environment, {theirs} in "
                "the data. Record what the environment shows (image_size and pixels change that)."
            )
    check_actions(recording, action_spec)


def _forms(spec: Composite) -> dict[tuple[str, ...], tuple[tuple[int, ...], str]]:
    """Shape and dtype of every leaf that is no goal and no task."""
    leaves = {as_tuple(key): leaf for key, leaf in spec.items(True, True)}
    return {key: (tuple(leaf.shape), str(leaf.dtype)) for key, leaf in leaves.items() if key[0] not in (GOAL, TASK)}


class JEPARecipe(Recipe[Config, JEPA, State]):
    """A JEPA as the loop runs it: first all rows, then all updates."""

    name = "jepa"
    title = "JEPA"
    config_class: type[Config] = Config
    clock = UPDATES
    together = True
    length_counts = "its learning rate falls over all of them"
    shown: ClassVar[Mapping[str, str]] = {
        "prediction": "loss_prediction",
        "regularizer": "loss_regularizer",
        "z_std": Z_STD,
    }

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def update(self, state: State) -> dict[str, Tensor]:
        config, model = state.config, state.model
        if state.updates == 0:
            self.begin(state)
        batch = action_blocks(state.sample(), config.frame_skip, model.frame_keys, model.action_spec).to(config.device)
        return update(state.learning, batch, bfloat16=config.bfloat16)

    def begin(self, state: State) -> None:
        """Before the first update: actions are brought to mean 0 and standard deviation 1, as they are in the rows."""
        state.model.action_encoder.normalize(*action_statistics(state.model, state.source, state.config.frame_skip))

    def save(self, state: State) -> Saved:
        learning = state.learning
        return {"optimizer": learning.optimizer.state_dict(), "schedule": learning.schedule.state_dict()}

    def load(self, state: State, saved: Saved) -> None:
        state.learning.optimizer.load_state_dict(saved["optimizer"])
        state.learning.schedule.load_state_dict(saved["schedule"])

    def describe(self, state: State) -> str:
        return f"learns without rewards from {state.source}"

    def warn(self, state: State) -> str:
        """Says if the embeddings have collapsed, once the warm-up is over."""
        spread = state.metrics.get(Z_STD)
        if spread is None or state.updates <= warmup_updates(state.model.config, state.config.steps):
            return ""
        if float(spread) >= _COLLAPSED:
            return ""
        return (
            f"Warning: the embeddings' standard deviation is {float(spread):.2g}, below {_COLLAPSED}: they have "
            "collapsed, or nearly, and all observations look alike to the planner. A small prediction loss says "
            "nothing then. Raise sigreg_coef (--overrides sigreg_coef=…), or lower the learning rate."
        )

    def evaluate(self, config: Config, model: JEPA, episodes: int, seed: int, check: Callable[[], None]) -> Evaluation:
        """Planning to goals where the environment gives them, else predictions in episodes not learned from."""
        if config.env and _gives_goals(config, seed):
            return super().evaluate(config, model, episodes, seed, check)
        rows = []
        for number in range(episodes):
            check()
            rows.append(self.new_rows(config, model, seed + number, _MOST_ROWS))
        return Evaluation(0, [], [], statistics=foresight(model, rows, model.config.horizon))

    def new_rows(self, config: Config, model: JEPA, seed: int, most: int) -> TensorDict:
        """Rows [T ≤ most] of an episode that was not learned from, its last observation as the goal.

        A held-out one of recorded episodes (any, if none is held out), or a new one of the policy that collects.
        """
        frames = config.frame_skip * (most - 1) + 1
        if config.data:
            rows = _held_out_rows(config, seed, frames)
        else:
            rows = _played_rows(config, Arrivals(model.frame_keys, model.action_keys), seed, frames)
        whole = min(len(rows) - 1, frames - 1) // config.frame_skip * config.frame_skip + 1
        blocks = action_blocks(rows[:whole], config.frame_skip, model.frame_keys, model.action_spec)
        for key in model.frame_keys:
            blocks.set((GOAL, *as_tuple(key)), blocks[key][-1:].expand(blocks[key].shape).clone())
        return blocks


def _gives_goals(config: Config, seed: int) -> bool:
    env = config.make_env(1, seed)
    goals = any(as_tuple(key)[0] == GOAL for key in env.observation_spec.keys(True, True))
    env.close()
    return goals


def _held_out_rows(config: Config, seed: int, frames: int) -> TensorDictBase:
    recording = open_episodes(config.data, image_size=config.image_size)
    learned, held_out = split(recording, config.held_out, config.seed)
    episode = (held_out or learned)[seed % len(held_out or learned)]
    length = int(recording.lengths[episode])
    return recording.rows(recording.ends[episode] - length + torch.arange(min(length, frames)))


def _played_rows(config: Config, arrivals: Arrivals, seed: int, frames: int) -> TensorDictBase:
    env, policy = collection_policy(config.policy).prepare(config.make_collection_env(1, seed))
    env.set_seed(seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = arrivals(env.rollout(frames - 1, policy)).rows
    env.close()
    return rows


RECIPE = JEPARecipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
