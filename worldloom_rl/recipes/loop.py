"""What every recipe shares: collect, learn, evaluate, checkpoint, report. A recipe is a handful of functions.

Read `step` for the walk of one agent step. The subject itself, one gradient update, stands in the recipe.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Composite
from torchrl.envs import EnvBase

from worldloom_rl.config import Json, WorldModelConfig, did_you_mean
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes.options import RecordedRunConfig, RunConfig
from worldloom_rl.report.learning_curve import draw_learning_curve, draw_statistics
from worldloom_rl.training.collection import load_collection, save_collection
from worldloom_rl.training.compilation import built, compile_model
from worldloom_rl.training.cuda_graphs import RecordedPolicy
from worldloom_rl.training.evaluate import Evaluation, evaluate, with_primers
from worldloom_rl.training.interruption import Interrupted, Interruption
from worldloom_rl.training.profile import Profile, profile_text
from worldloom_rl.training.progress import LiveLine
from worldloom_rl.training.run_directory import CURVE_FILE, PROFILE_FILE, RunDirectory, write_json
from worldloom_rl.world_model import WorldModel

Law = Literal["episode", "online", "window", "within"]
_SCRATCH = "replay"  # in the run directory, while it runs: memory-mapped rows


def make_collector(
    config: RunConfig, env: EnvBase, policy: TensorDictSequential, *, init_random_frames: int | None = None
) -> Collector:
    """One agent step in every environment a batch, without end, kept on the CPU.

    Args:
        init_random_frames: agent steps whose actions are drawn at random before the policy acts.
    """
    recorded = isinstance(config, RecordedRunConfig) and config.cuda_graphs
    return Collector(
        env,
        RecordedPolicy(policy) if recorded else policy,
        frames_per_batch=config.num_envs,
        total_frames=-1,
        init_random_frames=init_random_frames,
        auto_register_policy_transforms=True,
        policy_device=config.device,
        storing_device="cpu",
    )


def make_replay(
    config: RunConfig,
    model: WorldModel,
    arrivals: Arrivals,
    *,
    window: int,
    batch_size: int,
    by: Law,
    action_spec: Composite | None = None,
    rows: int | None = None,
) -> Replay:
    """The replay of a run, within the rows and the gigabytes it may keep.

    Args:
        action_spec: of a row's action; by default the model's.
        rows: that the run brings; by default what its agent steps can.
    Raises ValueError if not even one window fits.
    """
    settings: dict[str, Any] = {"window": window, "batch_size": batch_size, "by": by}
    leaves = arrivals.row_bytes(model.observation_spec, action_spec or model.action_spec, model.latent_spec)
    row_bytes = leaves + Replay(capacity=1000 + window, **settings).bytes_per_row
    rows = config.replay_rows() if rows is None else min(rows, config.capacity)
    if config.replay_gb is not None:
        rows = min(rows, int(config.replay_gb * 1e9 / row_bytes))
    if rows < 2 * window:
        raise ValueError(
            f"Replay may keep {rows} rows of {row_bytes:.0f} bytes, but windows have {window}: "
            f"allow at least {2 * window * row_bytes / 1e9:.2g} gigabytes and {2 * window} rows (replay_gb, capacity)."
        )
    scratch = None
    if rows * row_bytes > config.memmap_above_gb * 1e9:
        scratch = Path(config.run_directory or tempfile.mkdtemp()) / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
    return Replay(capacity=rows, memmap_dir=scratch, generator=torch.Generator().manual_seed(config.seed), **settings)


def preset_config(family: str, preset: str, overrides: tuple[str, ...], **learned: Json) -> WorldModelConfig:
    """A preset with the numbers that a run finds out itself, and with overrides "name=value", which count most.

    Raises ValueError for an override that names no number of the family or has no value.
    """
    _, config = find_preset(f"{family}:{preset}")
    known = {field.name for field in dataclasses.fields(config)}
    values: dict[str, Json] = dict(learned)
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or name not in known:
            raise ValueError(f"An override is written name=value, got {override!r}.{did_you_mean(name, known)}")
        try:
            values[name] = json.loads(value if value[:1] in "\"'" else value.lower())
        except json.JSONDecodeError as error:
            raise ValueError(f"The override {override!r} needs a number, true or false after '='.") from error
    return dataclasses.replace(config, **values)


@dataclass(kw_only=True)
class RunState:
    """Everything a run goes on from; a recipe adds its losses and optimisers.

    Without a collector the rows are there from the start, and checkpoints leave them where they came from.
    """

    config: Any  # the recipe's own RunConfig
    model: Any  # the recipe's own WorldModel
    replay: Replay
    arrivals: Arrivals
    collector: Collector | None
    batches: Iterator[TensorDictBase]
    learning_starts: int  # agent steps before the first update
    agent_steps: int = 0
    updates: int = 0
    updates_due: float = 0.0
    training_seconds: float = 0.0
    running_returns: Tensor = field(default_factory=lambda: torch.zeros(0))
    episode_returns: list[float] = field(default_factory=list)  # of training episodes, exploration included
    evaluations: list[Evaluation] = field(default_factory=list)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    resumed: str = ""  # what a person is told of a state that was loaded


@dataclass(frozen=True)
class Recipe:
    """How a family learns, as functions that the loop calls."""

    name: str  # of the family, and on the command line
    title: str  # for people
    config_class: type[RunConfig]
    make_state: Callable[[Any], Any]  # config → a fresh state
    make_policy: Callable[[Any], TensorDictSequential]  # model → policy, for collectors and evaluation
    update: Callable[[Any], dict[str, Tensor]]  # one gradient update of a state; gives metrics
    save: Callable[[Any], dict[str, Any]]  # optimisers and whatever else learning goes on from
    load: Callable[[Any, dict[str, Any]], None]  # puts that back into a fresh state
    describe: Callable[[Any], str]  # what to say of a state in the run's first line
    burst: bool  # the steps before learning count as updates due, made at once when it begins
    shown: Mapping[str, str]  # what the live line shows: its name, the metric's
    check: Callable[[Any, TensorDictBase], None] = lambda state, transitions: None  # raises ValueError for transitions
    # that the model can't learn from
    clock: Literal["agent_steps", "updates"] = "agent_steps"  # what `steps`, evaluations and logs count
    evaluate: Callable[[Any, Any, int, int, Callable[[], None]], Evaluation] | None = None  # config, model, episodes,
    # seed, what may end it → an evaluation; by default episodes of the policy in environments of their own
    new_rows: Callable[[Any, Any, int, int], TensorDictBase] | None = None  # config, model, seed, most rows → arrival
    # rows [T] of an episode that was not learned from; by default of the policy in an environment of its own
    warn: Callable[[Any], str] = lambda state: ""  # what a person should be told of a state, once each


def save_optimizer(state: Any) -> dict[str, Any]:
    """`Recipe.save` of a state whose one optimiser is all that learning goes on from."""
    return {"optimizer": state.optimizer.state_dict()}


def load_optimizer(state: Any, learning: dict[str, Any]) -> None:
    """Puts back what `save_optimizer` gave."""
    state.optimizer.load_state_dict(learning["optimizer"])


# ------------------------------------------------------------------ one step


def step(recipe: Recipe, state: RunState) -> str:
    """One gradient update if one is due, else one agent step in every environment. Returns the phase's name."""
    learning = state.agent_steps >= state.learning_starts
    if state.updates_due >= 1 and learning:
        state.metrics = recipe.update(state)
        state.updates += 1
        state.updates_due -= 1
        return "pretraining" if recipe.burst and state.updates < state.learning_starts else "training"
    transitions = next(state.batches)
    recipe.check(state, transitions)
    state.replay.extend(state.arrivals(transitions))
    state.agent_steps += transitions.numel()
    if learning or recipe.burst:
        state.updates_due += transitions.numel() * state.model.config.updates_per_step
    state.running_returns += transitions["next", "reward"].reshape(-1)
    done = transitions["next", "done"].reshape(-1)
    state.episode_returns += state.running_returns[done].tolist()
    state.running_returns[done] = 0.0
    if learning:
        return "training"
    return "collecting" if recipe.clock == "updates" else "seeding"


# ------------------------------------------------------------------ the run


def train(recipe: Recipe, config: RunConfig) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result.

    Raises ValueError if the steps end before learning starts.
    """
    name = f"{recipe.name}-{config.task.replace(':', '-').replace('/', '-').strip('-.')}-seed{config.seed}"
    run = RunDirectory.create(config.run_directory, name, recipe.name, dataclasses.asdict(config))
    state = recipe.make_state(dataclasses.replace(config, run_directory=str(run.path)))
    if recipe.clock == "agent_steps" and config.steps <= state.learning_starts:
        raise ValueError(
            f"steps is {config.steps}, but learning starts after {state.learning_starts} agent steps: give more steps."
        )
    return _run(recipe, state, run)


def resume(recipe: Recipe, run: RunDirectory) -> RunDirectory:
    """Go on from the newest checkpoint of a run."""
    run.checkpoints.clean()
    folder = run.checkpoints.latest()
    config = dataclasses.replace(read_config(recipe, run), run_directory=str(run.path))
    state = load_state(recipe, config, folder)
    if state.collector is not None:
        state.replay.moved(folder / "replay")
    run.clock = recipe.clock
    run.cut_logs(getattr(state, recipe.clock))
    return _run(recipe, state, run)


def read_config(recipe: Recipe, run: RunDirectory) -> RunConfig:
    """The configuration of a run of this recipe."""
    name, values = run.read_config()
    if name != recipe.name:
        raise ValueError(f"{run.path} is a run of the recipe {name!r}, not of {recipe.name!r}.")
    known = {field.name for field in dataclasses.fields(recipe.config_class)}
    for option in values:
        if option not in known:
            raise ValueError(f"{run.path}: the recipe {name!r} has no option {option!r}.{did_you_mean(option, known)}")
    try:
        return recipe.config_class(**{**values, "overrides": tuple(values.get("overrides", ()))})
    except TypeError as error:
        raise ValueError(f"{run.path} holds no whole configuration of {name!r}: {error}.") from error


def _run(recipe: Recipe, state: RunState, run: RunDirectory) -> RunDirectory:
    config = state.config
    run.wandb, run.clock = config.logger == "wandb", recipe.clock
    profile = Profile(config.device) if config.profile else None
    if profile is not None:
        profile.watch(state.collector, state.replay)
        recipe = dataclasses.replace(recipe, update=profile.timed("update", recipe.update))
    begun, steps_before = built() if config.compile else None, _clock(recipe, state)
    begin = time.monotonic() - state.training_seconds
    next_checkpoint = (_clock(recipe, state) // config.checkpoint_every + 1) * config.checkpoint_every
    warned = ""
    with closing(run), Interruption() as interruption, LiveLine(config.steps, _clock(recipe, state)) as line:
        line.say(
            f"{recipe.title} {config.preset} ({state.model.num_parameters():,} parameters) on {config.task}: "
            f"{_plan(recipe, state)}{recipe.describe(state)}. Run directory: {run.path}"
        )
        if state.resumed:
            line.say(state.resumed)
        if config.compile:
            line.say(compile_model(state.model, config.device))
        try:
            while not _target_reached(state) and (_clock(recipe, state) < config.steps or state.updates_due >= 1):
                if _evaluation_due(recipe, state):
                    paused = time.monotonic()
                    line.show("evaluating", _clock(recipe, state), _shown(recipe, state))
                    seed = config.seed + 100_000
                    evaluation = _evaluate(recipe, state, run, line, config.eval_episodes, seed, interruption)
                    evaluated = time.monotonic() - paused
                    begin += evaluated  # training time leaves evaluations out
                    line.leave_out(evaluated)
                    if profile is not None:
                        profile.leave_out(evaluated)
                    if _target_reached(state):
                        line.say(f"return {evaluation.mean_return:.1f} reaches the target of {config.target_return:g}")
                        break
                phase = step(recipe, state)
                if line.due():
                    line.show(phase, _clock(recipe, state), _shown(recipe, state))
                    run.log(_logged(state), _clock(recipe, state))
                    warned = _warn(recipe, state, line, warned)
                state.training_seconds = time.monotonic() - begin
                whole = recipe.clock == "updates" or state.updates_due < 1
                if _clock(recipe, state) >= next_checkpoint and whole:
                    _checkpoint(recipe, state, run)
                    next_checkpoint += config.checkpoint_every
                interruption.check()
            _warn(recipe, state, line, warned)
            spent = None if profile is None else profile.seconds()
            line.show("evaluating", _clock(recipe, state), _shown(recipe, state))
            final = _evaluate(recipe, state, run, line, config.final_eval_episodes, config.seed + 10**9, interruption)
        except Interrupted as interrupted:
            _checkpoint(recipe, state, run)
            done = f"{_clock(recipe, state)} {_unit(recipe)}"
            line.say(f"Stopped and saved after {done}. Go on: worldloom resume {run.path}")
            interrupted.end()
        _checkpoint(recipe, state, run)
        _write_result(recipe, state, run, final)
        if spent is not None and (steps := _clock(recipe, state) - steps_before):
            write_json(run.path / PROFILE_FILE, {recipe.clock: steps, "seconds": spent})
            line.say(profile_text(spent, steps))
        if begun is not None and (graphs := built().graphs - begun.graphs):
            line.say(
                f"Compiling took {built().seconds - begun.seconds:.0f} s for {graphs} graphs; torch keeps what it "
                "built, so the next run on this machine spends less."
            )
    line.say(f"Trained for {state.training_seconds:.0f} s. Last evaluation: {final}.")
    if state.collector is not None:
        state.collector.shutdown()
    shutil.rmtree(run.path / _SCRATCH, ignore_errors=True)
    return run


def _clock(recipe: Recipe, state: RunState) -> int:
    count: int = getattr(state, recipe.clock)
    return count


def _unit(recipe: Recipe) -> str:
    return "steps" if recipe.clock == "agent_steps" else "updates"


def _plan(recipe: Recipe, state: RunState) -> str:
    config = state.config
    if recipe.clock == "updates":
        return f"{config.steps} updates; "
    each = f"each {config.repeat} environment steps"
    return f"{config.steps} agent steps, {each}; learning starts after {state.learning_starts}; "


def _warn(recipe: Recipe, state: RunState, line: LiveLine, before: str) -> str:
    """Says what the recipe warns of, unless it was the last thing said; returns it."""
    warning = recipe.warn(state)
    if warning and warning != before:
        line.say(warning)
    return warning or before


def _shown(recipe: Recipe, state: RunState) -> dict[str, float]:
    shown = {"return": _recent_return(state)} if state.episode_returns else {}
    shown["replay GB"] = len(state.replay) * state.replay.bytes_per_row / 1e9
    return shown | {name: float(state.metrics[key]) for name, key in recipe.shown.items() if key in state.metrics}


def _logged(state: RunState) -> dict[str, float]:
    losses = {f"update/{name}": float(value) for name, value in state.metrics.items()}
    returns = {"collection/return": _recent_return(state)} if state.episode_returns else {}
    return {**losses, **returns, "collection/updates": float(state.updates)}


def _recent_return(state: RunState) -> float:
    recent = state.episode_returns[-10:]
    return sum(recent) / len(recent)


def _write_result(recipe: Recipe, state: RunState, run: RunDirectory, final: Evaluation) -> None:
    config = state.config
    run.write_result(
        {
            "recipe": recipe.name,
            "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "run_directory"},
            "model_config": state.model.config.to_json(),
            "parameters": state.model.num_parameters(),
            "agent_steps": state.agent_steps,
            "environment_steps": state.agent_steps * config.repeat,
            "updates": state.updates,
            "training_seconds": round(state.training_seconds, 1),
            "clock": recipe.clock,
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
            "final_returns": final.returns,
            "final_mean_return": final.mean_return if final.returns else None,
        }
    )


# ------------------------------------------------------------------ evaluation


def _evaluation_due(recipe: Recipe, state: RunState) -> bool:
    done, every = _clock(recipe, state), state.config.eval_every
    if done >= state.config.steps:  # the last evaluation, with more episodes, follows
        return False
    last = getattr(state.evaluations[-1], recipe.clock) if state.evaluations else None
    return last is None or done // every > last // every


def _target_reached(state: RunState) -> bool:
    """Whether an evaluation of a model that had learned had the return that ends the run."""
    target = state.config.target_return
    learned = (evaluation for evaluation in state.evaluations if evaluation.updates and evaluation.returns)
    return target is not None and any(evaluation.mean_return >= target for evaluation in learned)


def _evaluate(
    recipe: Recipe,
    state: RunState,
    run: RunDirectory,
    line: LiveLine,
    episodes: int,
    seed: int,
    interruption: Interruption,
) -> Evaluation:
    done, check = _clock(recipe, state), interruption.check
    found = assess(recipe, state.config, state.model, episodes, state.agent_steps, seed + done, check)
    evaluation = dataclasses.replace(found, updates=state.updates)
    state.evaluations.append(evaluation)
    returns = {"evaluation/return": evaluation.mean_return} if evaluation.returns else {}
    statistics = {f"evaluation/{name}": value for name, value in evaluation.statistics.items()}
    run.log({**returns, **statistics}, done)
    line.say(f"evaluation after {done} {_unit(recipe)}: {evaluation}")
    repeat = state.config.repeat if recipe.clock == "agent_steps" else 1
    steps = [repeat * int(getattr(each, recipe.clock)) for each in state.evaluations]
    title = f"{recipe.title} {state.config.preset} on {state.config.task}, seed {state.config.seed}"
    axis = "environment steps" if recipe.clock == "agent_steps" else "gradient updates"
    file = run.path / CURVE_FILE
    if evaluation.returns:
        draw_learning_curve(file, title, steps, [each.returns for each in state.evaluations], axis=axis)
    else:
        draw_statistics(file, title, steps, [each.statistics for each in state.evaluations], axis=axis)
    return evaluation


def assess(
    recipe: Recipe,
    config: RunConfig,
    model: WorldModel,
    episodes: int,
    agent_steps: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """An evaluation as the recipe makes it, with draws of its own; `check` may end it."""
    if recipe.evaluate is None:
        return play(recipe, config, model, episodes, agent_steps, seed, check)
    return dataclasses.replace(recipe.evaluate(config, model, episodes, seed, check), agent_steps=agent_steps)


def play(
    recipe: Recipe,
    config: RunConfig,
    model: WorldModel,
    episodes: int,
    agent_steps: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Episodes in environments of their own, played side by side, with draws of their own; `check` may end them."""
    policy = recipe.make_policy(model)
    env = with_primers(config.make_env(episodes, seed), policy)
    kept, model.noise = model.noise, GeneratorNoise(torch.Generator(config.device).manual_seed(seed))
    try:
        with torch.random.fork_rng():  # seeding an environment seeds torch too
            evaluation = evaluate(env, policy, agent_steps, seed, check)
    finally:
        model.noise = kept
        env.close()
    return evaluation


# ------------------------------------------------------------------ checkpoints

_COUNTERS = ("agent_steps", "updates", "updates_due", "training_seconds")


def _checkpoint(recipe: Recipe, state: RunState, run: RunDirectory) -> None:
    scored = [evaluation for evaluation in state.evaluations[-1:] if evaluation.returns]
    score = scored[0].mean_return if scored else None
    write = partial(save_state, recipe, state)
    folder = run.checkpoints.save(state.agent_steps, state.updates, write, score)
    if state.collector is not None:
        state.replay.moved(folder / "replay")


def save_state(recipe: Recipe, state: RunState, directory: Path) -> None:
    """Everything that a run goes on from: weights, what the recipe learns with, replay, collection and counters."""
    state.model.save_pretrained(directory / "model")
    learning = {
        **recipe.save(state),
        "counters": {name: getattr(state, name) for name in _COUNTERS},
        "sampling": state.replay._rng.get_state(),
        "running_returns": state.running_returns,
        "episode_returns": state.episode_returns,
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
    }
    torch.save(learning, directory / "learning.pt")
    if state.collector is not None:
        state.replay.save(directory / "replay")
    save_collection(state.collector, state.arrivals, directory)


def load_state(recipe: Recipe, config: RunConfig, directory: Path) -> Any:
    """The state that `save_state` wrote.

    What follows is bit for bit what would have followed there: on a CPU, with the same libraries and number of threads,
    if the environments' state could be kept (see `envs.snapshot`); else their episodes begin anew.
    """
    learning = torch.load(directory / "learning.pt", map_location="cpu", weights_only=True)
    state = recipe.make_state(config)
    saved = type(state.model).from_pretrained(directory / "model")
    if saved.config != state.model.config:
        raise ValueError(
            f"{directory} holds a model of other numbers than the run's configuration; restore config.json."
        )
    state.model.load_state_dict(saved.state_dict())
    recipe.load(state, learning)
    for name in _COUNTERS:
        setattr(state, name, learning["counters"][name])
    state.running_returns = learning["running_returns"]
    state.episode_returns = learning["episode_returns"]
    state.evaluations = [Evaluation(**values) for values in learning["evaluations"]]
    if state.collector is not None:
        state.replay.load(directory / "replay")
    state.replay._rng.set_state(learning["sampling"])
    reason = load_collection(state.collector, state.arrivals, directory, config.seed + state.agent_steps)
    state.resumed = f"Goes on after {state.agent_steps} steps and {state.updates} updates" + (
        "."
        if state.collector is None
        else ", in the middle of its episodes."
        if reason is None
        else f", with new episodes, because {reason}"
    )
    return state
