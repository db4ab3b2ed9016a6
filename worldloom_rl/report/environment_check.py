"""What an environment is to a world model, found out in seconds: keys, memory, time, problems and remedies."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from worldloom_rl.envs import episode_length
from worldloom_rl.keys import DONE, IS_INIT, REWARD, TERMINATED, TRUNCATED, as_tuple
from worldloom_rl.pretrained.registry import find_family
from worldloom_rl.specs.actions import ActionSegment, ActionSpace
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import with_primers

_WIDTH = 100  # columns of the text
_EPISODES = 5  # of random actions, if they end within the limits below
_FEWEST_STEPS, _MOST_STEPS, _MOST_SECONDS = 200, 1000, 10.0
_UPDATES, _UPDATE_SECONDS = 3, 2.0  # timed at most, after one that is not
_LARGEST_RATIO = 20.0  # of standard deviations among observed dimensions


class Recipe(Protocol):
    """What the check uses of a `training.recipe.Recipe`, which stands behind this module in the order of imports."""

    @property
    def name(self) -> str: ...
    @property
    def config_class(self) -> Any: ...
    @property
    def make_state(self) -> Callable[[Any], Any]: ...
    @property
    def make_policy(self) -> Callable[[Any], Any]: ...
    @property
    def update(self) -> Callable[[Any], dict[str, Tensor]]: ...
    @property
    def pretrains(self) -> bool: ...


@dataclass(frozen=True)
class Leaf:
    """An observation or action: its key, what the environment has, and what becomes of it."""

    key: str
    given: str
    seen: str


@dataclass(frozen=True)
class Problem:
    """Something that training may suffer from, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Trial:
    """A few steps and updates of a family's smallest preset that reads the environment, measured."""

    row_bytes: float  # of replay, bookkeeping included
    acting_seconds: float  # of an agent step, environment included
    update_seconds: float
    updates_per_step: float
    learning_starts: int  # agent steps before the first update
    burst: bool  # the steps before learning count as updates due

    def training_seconds(self, steps: int) -> float:
        """Seconds that so many agent steps in one environment take with their updates, evaluations left out."""
        learned = steps if self.burst else max(0, steps - self.learning_starts)
        return steps * self.acting_seconds + learned * self.updates_per_step * self.update_seconds


@dataclass(frozen=True)
class FamilyReport:
    """How one family takes to the environment.

    Attributes:
        parameters: by name, of each preset that can read it.
        unreadable: by name, why a preset cannot.
        capacity: rows that replay keeps by default.
        run_rows: rows that replay keeps in a run of the steps asked for.
        options: of `worldloom train`, beyond those given, that the environment needs.
        measured: the preset tried, the smallest that reads the environment.
        trial: None if no preset reads the environment or the trial failed.
        obstacle: why it cannot be trained; None if it can.
    """

    name: str
    parameters: Mapping[str, int]
    unreadable: Mapping[str, str]
    capacity: int
    run_rows: int
    options: tuple[str, ...] = ()
    measured: str | None = None
    trial: Trial | None = None
    obstacle: str | None = None


@dataclass(frozen=True)
class Play:
    """Steps of random actions: lengths of the episodes that ended, how many of those in a terminal state, and pace."""

    steps: int
    lengths: tuple[int, ...]
    terminations: int
    seconds: float

    @property
    def rate(self) -> float:
        """Agent steps a second in one environment."""
        return self.steps / self.seconds


@dataclass(frozen=True)
class EnvironmentReport:
    """What `check_environment` found.

    Attributes:
        arguments: of `worldloom train`, that say which environment this is.
        action_repeat: simulator steps of an agent step.
        steps: agent steps that times are projected for.
        longest_episode: in agent steps; None if the environment could not be made.
        play: None if random actions could not be played.
        refusal: why no family can be trained; None if that is up to the families.
    """

    name: str
    arguments: tuple[str, ...]
    action_repeat: int
    steps: int
    observations: tuple[Leaf, ...] = ()
    actions: tuple[Leaf, ...] = ()
    longest_episode: int | None = None
    play: Play | None = None
    problems: tuple[Problem, ...] = ()
    families: tuple[FamilyReport, ...] = ()
    refusal: str | None = None

    @property
    def trainable(self) -> bool:
        """Whether at least one family can be trained."""
        return any(family.obstacle is None for family in self.families)

    def text(self) -> str:
        """The report for a person, at most 100 columns wide, with the next command to run at its end."""
        return _text(self)


def check_environment(
    name: str,
    recipes: Sequence[Recipe],
    *,
    action_repeat: int | None = None,
    pixels: bool = False,
    time_limit: int | None = None,
    steps: int = 3000,
    seed: int = 0,
) -> EnvironmentReport:
    """What the environment is to each recipe's family, from its specs, random actions and a few updates.

    Nothing is written. Where the environment cannot be used the report says why instead of raising; only what is wrong
    with the arguments raises ValueError. Torch's generator is as before.

    Args:
        name, action_repeat, pixels, time_limit: as for `make_env`; the action repeat's default is the recipes'.
        recipes: of the families to try, such as `worldloom_rl.recipes.dreamerv3.RECIPE`.
        steps: agent steps to project times for.

    Example:
        >>> from worldloom_rl.recipes import dreamerv3, tdmpc2
        >>> report = check_environment("Pendulum-v1", [dreamerv3.RECIPE, tdmpc2.RECIPE])
        >>> report.trainable, [leaf.key for leaf in report.observations]
        (True, ['observation'])
    """
    given = {"env": name, "action_repeat": action_repeat, "pixels": pixels, "time_limit": time_limit, "seed": seed}
    configs = [recipe.config_class(**given, steps=steps) for recipe in recipes]
    report = EnvironmentReport(name, _arguments(configs[0]), configs[0].repeat, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            env = configs[0].make_env(1, seed)
        except ValueError as error:
            return dataclasses.replace(report, refusal=str(error))
        observed = _observed_spaces(env)
        leaves = tuple(_observation_leaves(env, observed))
        report = dataclasses.replace(report, observations=leaves, longest_episode=episode_length(env))
        try:
            report = dataclasses.replace(report, actions=tuple(_action_leaves(env)))
            transitions, seconds = _play_randomly(env)
        except ValueError as error:
            return dataclasses.replace(report, refusal=str(error))
        finally:
            env.close()
        keys = list(specs_of(env)[0].keys(include_nested=True, leaves_only=True))
        play = _summary(transitions, seconds)
        real = [key for key in keys if _is_real(observed.get(as_tuple(key)))]
        problems = (
            *_constant_observations(transitions, keys),
            *_scales(transitions, real),
            *_constant_rewards(transitions, play),
            *_terminations(play, recipes),
        )
        refusal = _not_finite(name, transitions, keys)
        report = dataclasses.replace(report, play=play, problems=problems, refusal=refusal)
        if refusal is not None:
            return report
        families = (_family_report(recipe, config, play) for recipe, config in zip(recipes, configs, strict=True))
        return dataclasses.replace(report, families=tuple(families))


def _arguments(config: Any) -> tuple[str, ...]:
    """The options of `worldloom train` that make this environment."""
    options = ["--env", config.env]
    for name in ("action_repeat", "time_limit"):
        if getattr(config, name) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return (*options, *(["--pixels"] if config.pixels else []), "--steps", str(config.steps))


# ------------------------------------------------------------------ keys


def _simulator_of(env: EnvBase) -> tuple[Any, bool]:
    """The simulator below what `make_env` converts, and whether rendered images take its observations' place."""
    steps = env.base_env._env  # gymnasium's environment under TorchRL's wrapper
    return steps.env, steps.image is not None


def _branches(space: spaces.Space[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(space, spaces.Dict):
        for name, leaf in space.items():
            yield from _branches(leaf, (*path, name))
    else:
        yield path, space


def _observed_spaces(env: EnvBase) -> dict[tuple[str, ...], Any]:
    """The simulator's space of each observation, by its key in the tensordict; empty if images are rendered."""
    simulator, rendered = _simulator_of(env)
    if rendered:
        return {}
    found = {path or ("observation",): space for path, space in _branches(simulator.observation_space)}
    if ("observation",) not in found and ("state",) in found:  # TorchRL renames it
        found["observation",] = found.pop(("state",))
    return found


def _observation_leaves(env: EnvBase, observed: Mapping[tuple[str, ...], Any]) -> Iterator[Leaf]:
    kept = set(specs_of(env)[0].keys(include_nested=True, leaves_only=True))
    for key, spec in env.observation_spec_unbatched.items(include_nested=True, leaves_only=True):
        if key == IS_INIT:
            continue
        space = observed.get(as_tuple(key))
        given = "rendered image" if space is None else _space_text(space)
        seen = _seen_text(space, spec) if key in kept else "ignored: a name that bookkeeping uses; rename it"
        yield Leaf(_dotted(key), given, seen)
    simulator, rendered = _simulator_of(env)
    if rendered:
        for path, space in _branches(simulator.observation_space):
            yield Leaf(".".join(path) or "observation", _space_text(space), "ignored: --pixels observes images")


def _seen_text(space: Any, spec: TensorSpec) -> str:
    text = f"{_dtype(spec.dtype)} {list(spec.shape)}"
    if isinstance(space, spaces.Discrete):
        return f"{text}, one-hot"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{text}, one-hots side by side"
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and tuple(spec.shape) != space.shape:
        return f"{text}, channels first"
    return text


def _action_leaves(env: EnvBase) -> Iterator[Leaf]:
    actions = ActionSpace(specs_of(env)[1])
    given = {path or ("action",): space for path, space in _branches(_simulator_of(env)[0].action_space)}
    for segment in actions.segments:
        bounds = actions.low[segment.start : segment.stop], actions.high[segment.start : segment.stop]
        space = given[as_tuple(segment.key)]
        yield Leaf(_dotted(segment.key), _space_text(space), _action_text(segment, *bounds))


def _action_text(segment: ActionSegment, low: Tensor, high: Tensor) -> str:
    if segment.categories:
        return f"one of {' x '.join(map(str, segment.categories))} choices, one-hot"
    pairs = dict.fromkeys(zip(low.tolist(), high.tolist(), strict=True))
    bounds = ", ".join(f"{low:g} to {high:g}" for low, high in list(pairs)[:4]) + (", …" if len(pairs) > 4 else "")
    numbers = "1 real number" if len(low) == 1 else f"{len(low)} real numbers"
    return f"{numbers} in {bounds}; rescaled to [-1, 1] inside the model"


def _space_text(space: Any) -> str:
    return f"Box {space.dtype} {list(space.shape)}" if isinstance(space, spaces.Box) else str(space)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dotted(key: NestedKey) -> str:
    return ".".join(as_tuple(key))


def _is_real(space: Any) -> bool:
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


# ------------------------------------------------------------------ random actions


def _play_randomly(env: EnvBase) -> tuple[TensorDictBase, float]:
    """[T] transitions of random actions, across episodes, and the seconds they took."""
    begin = time.perf_counter()
    td, episodes = env.reset(), 0
    steps: list[TensorDictBase] = []
    while len(steps) < _MOST_STEPS and time.perf_counter() - begin < _MOST_SECONDS:
        if episodes >= _EPISODES and len(steps) >= _FEWEST_STEPS:
            break
        step, td = env.step_and_maybe_reset(env.rand_action(td))
        steps.append(step)
        episodes += int(step["next", DONE])
    return torch.stack(steps), time.perf_counter() - begin


def _summary(transitions: TensorDictBase, seconds: float) -> Play:
    ends = transitions["next", DONE].flatten().nonzero().flatten()
    lengths = torch.diff(ends, prepend=ends.new_tensor([-1]))
    terminations = int(transitions["next", TERMINATED].sum())
    return Play(len(transitions), tuple(lengths.tolist()), terminations, seconds)


def _values(transitions: TensorDictBase, key: NestedKey) -> Tensor:
    """[T, n] what was observed on arriving."""
    values: Tensor = transitions["next"][key].float()
    return values.flatten(1)


def _entry(transitions: TensorDictBase, key: NestedKey, place: int) -> str:
    shape = transitions["next"][key].shape[1:]
    return f"{_dotted(key)}{[int(index) for index in np.unravel_index(place, shape)]}"


def _not_finite(name: str, transitions: TensorDictBase, keys: Sequence[NestedKey]) -> str | None:
    """Why the observations cannot be learned from; None if they are numbers."""
    for when, observed in (("after", transitions["next"]), ("before", transitions)):
        for key in keys:
            values = observed[key].float().flatten(1)
            wrong = values.isnan() | values.isposinf()  # a family may take −∞ for a missing entry
            if wrong.any():
                step, place = wrong.nonzero()[0].tolist()
                return (
                    f"{name}: the observation {_entry(transitions, key, place)} was {values[step, place].item()} "
                    f"{when} random step {step + 1}; {int(wrong.any(-1).sum())} of {len(values)} observations under "
                    "that key hold NaN or infinity, and models learn from finite numbers: mend the environment."
                )
    return None


def _constant_observations(transitions: TensorDictBase, keys: Sequence[NestedKey]) -> Iterator[Problem]:
    constant = {key: (_values(transitions, key) == _values(transitions, key)[:1]).all(0) for key in keys}
    steps = f"in {len(transitions)} steps of random actions"
    for key, still in constant.items():
        if still.all():
            yield Problem(
                f"The observation {_dotted(key)} is constant: it never changed {steps}.",
                "A model cannot tell one state from another by it. Check that the environment updates it, or leave it "
                "out (gymnasium.wrappers.FilterObservation).",
            )
        elif still.any() and transitions["next"][key].dim() == 2:
            names = [_entry(transitions, key, int(place)) for place in still.nonzero()[:4]]
            yield Problem(
                f"{int(still.sum())} of {len(still)} numbers of {_dotted(key)} are constant {steps}: "
                f"{', '.join(names)}{', …' if still.sum() > 4 else ''}.",
                "Harmless if random actions just do not reach what changes them.",
            )


def _scales(transitions: TensorDictBase, real: Sequence[NestedKey]) -> Iterator[Problem]:
    spread = {
        _entry(transitions, key, place): value
        for key in real
        for place, value in enumerate(_values(transitions, key).std(0, correction=0).tolist())
        if math.isfinite(value) and value > 0
    }
    if not spread:
        return
    small, large = min(spread, key=lambda entry: spread[entry]), max(spread, key=lambda entry: spread[entry])
    if spread[large] > _LARGEST_RATIO * spread[small]:
        yield Problem(
            f"Observations have very different scales: the standard deviation of {large} is {spread[large]:.3g}, that "
            f"of {small} is {spread[small]:.3g} ({spread[large] / spread[small]:.0f} times smaller).",
            "Bring them to one scale (gymnasium.wrappers.TransformObservation). TD-MPC2's encoder normalises the "
            "output of its first layer, where small numbers vanish beside large ones; DreamerV3 sees symlog values.",
        )


def _constant_rewards(transitions: TensorDictBase, play: Play) -> Iterator[Problem]:
    rewards = transitions["next", REWARD].flatten()
    if bool((rewards == rewards[0]).all()) and not play.terminations:
        yield Problem(
            f"Rewards never changed: {rewards[0].item():g} at each of {play.steps} random steps.",
            "There is nothing to learn from such rewards. If they are rare, give rewards on the way, or make sure that "
            "exploration finds them.",
        )


def _terminations(play: Play, recipes: Sequence[Recipe]) -> Iterator[Problem]:
    told = [recipe.name for recipe in recipes if _episodic(recipe, play)]
    if told:
        yield Problem(
            f"{play.terminations} of {len(play.lengths)} episodes ended in a terminal state.",
            f"Train {' and '.join(told)} with --episodic, which learns where episodes end.",
        )


def _episodic(recipe: Recipe, play: Play) -> bool:
    """Whether the family has to be told of terminations, and there are some."""
    return play.terminations > 0 and any(field.name == "episodic" for field in dataclasses.fields(recipe.config_class))


# ------------------------------------------------------------------ families


def _family_report(recipe: Recipe, config: Any, play: Play) -> FamilyReport:
    family = find_family(recipe.name)
    episodic = _episodic(recipe, play)
    if episodic:
        config = dataclasses.replace(config, episodic=True)
    env = config.make_env(1, config.seed)
    specs = specs_of(env)
    env.close()
    parameters, unreadable = {}, {}
    for preset, numbers in family.presets.items():
        try:
            with torch.device("meta"):
                parameters[preset] = family.model_class(numbers, *specs).num_parameters()
        except (ValueError, ImportError) as error:  # what it cannot read, or an extra that is missing
            unreadable[preset] = str(error)
    report = FamilyReport(
        recipe.name,
        parameters,
        unreadable,
        capacity=config.capacity,
        run_rows=config.replay_rows(),
        options=("--episodic",) if episodic else (),
    )
    if not parameters:
        return dataclasses.replace(report, obstacle=next(iter(unreadable.values())))
    # A run of few steps, so that the replay tried with is small.
    preset = next(iter(parameters))
    report = dataclasses.replace(report, measured=preset)
    if preset != config.preset:
        report = dataclasses.replace(report, options=(*report.options, "--preset", preset))
    config = dataclasses.replace(config, preset=preset, steps=1)
    try:
        return dataclasses.replace(report, trial=_try(recipe, config))
    except (ValueError, RuntimeError, FloatingPointError) as error:  # training would stop with it too
        return dataclasses.replace(report, obstacle=f"The first steps and updates stopped: {error}")


@torch.no_grad()
def _act(policy: TensorDictModuleBase, env: EnvBase, steps: int) -> tuple[TensorDictBase, float]:
    """[T] transitions of a policy, the last one cut as by a time limit, and the seconds an agent step took."""
    env = with_primers(env, policy)
    env.rollout(2, policy)  # first calls are slower
    begin = time.perf_counter()
    transitions = env.rollout(steps, policy, break_when_any_done=False)
    seconds = (time.perf_counter() - begin) / steps
    env.close()
    transitions["next", TRUNCATED][-1] = ~transitions["next", TERMINATED][-1]
    transitions["next", DONE][-1] = True
    return transitions, seconds


def _try(recipe: Recipe, config: Any) -> Trial:
    """A window of steps and a few updates of a fresh model. Raises ValueError if its numbers go wrong."""
    state = recipe.make_state(config)
    try:
        leaves = (state.model.observation_spec, state.model.action_spec, state.model.latent_spec)
        row_bytes = state.source.replay.bytes_per_row + state.source.arrivals.row_bytes(*leaves)
        env = config.make_env(1, config.seed)
        transitions, acting_seconds = _act(recipe.make_policy(state.model), env, state.source.replay.window + 20)
        state.source.replay.extend(state.source.arrivals(transitions))
        metrics = recipe.update(state)
        begin, updates, update_seconds = time.perf_counter(), 0, 0.0
        while updates < _UPDATES and update_seconds * updates < _UPDATE_SECONDS:
            metrics = recipe.update(state)
            updates += 1
            update_seconds = (time.perf_counter() - begin) / updates
    finally:
        state.close()
    wrong = [name for name, value in metrics.items() if not bool(value.isfinite().all())]
    if wrong:
        raise ValueError(f"After {1 + updates} updates these are not finite: {', '.join(wrong)}.")
    return Trial(
        row_bytes=row_bytes,
        acting_seconds=acting_seconds,
        update_seconds=update_seconds,
        updates_per_step=state.model.config.updates_per_step,
        learning_starts=state.learning_starts,
        burst=recipe.pretrains,
    )


# ------------------------------------------------------------------ text


def _text(report: EnvironmentReport) -> str:
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        able = [family.name for family in report.families if family.obstacle is None]
        verdict = f"can be trained with {' and '.join(able)}" if able else "cannot be trained with any family yet"
        console.print(Text(f"{report.name} {verdict}."))
        for title, rows in _sections(report):
            if not rows:
                continue
            console.print(Text(f"\n{title}"))
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for name, text in rows:
                table.add_row(Text(f"  {name}"), Text(text))
            console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, "", *_next(report)])


def _sections(report: EnvironmentReport) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield "Observations", [(leaf.key, f"{leaf.given} → {leaf.seen}") for leaf in report.observations]
    yield "Actions", [(leaf.key, f"{leaf.given} → {leaf.seen}") for leaf in report.actions]
    yield "Episodes and pace", list(_played(report))
    yield (
        "Worth a look",
        [row for problem in report.problems for row in (("found", problem.what), ("remedy", problem.remedy))],
    )
    for family in report.families:
        verdict = "can be trained" if family.obstacle is None else "cannot be trained"
        yield f"{family.name} {verdict}", list(_family_rows(report, family))
    if report.refusal is not None:
        yield "No family can be trained", [("reason", report.refusal)]


def _played(report: EnvironmentReport) -> Iterator[tuple[str, str]]:
    if report.longest_episode is not None:
        held = f", each {report.action_repeat} simulator steps" if report.action_repeat > 1 else ""
        yield "limit", f"an episode has at most {report.longest_episode:,} agent steps{held}"
    play = report.play
    if play is None:
        return
    if play.lengths:
        short, long = min(play.lengths), max(play.lengths)
        steps = f"{short:,}" if short == long else f"{short:,} to {long:,}"
        yield (
            "random play",
            f"{len(play.lengths)} episodes of random actions, {steps} agent steps each: {play.terminations} ended in a "
            f"terminal state, {len(play.lengths) - play.terminations} were cut",
        )
    else:
        yield "random play", f"no episode ended within {play.steps:,} agent steps of random actions"
    yield (
        "pace",
        f"{play.rate:,.0f} agent steps a second with random actions in one environment: "
        f"{_duration(report.steps / play.rate)} for {report.steps:,} without a model",
    )


def _family_rows(report: EnvironmentReport, family: FamilyReport) -> Iterator[tuple[str, str]]:
    if family.parameters:
        sizes = ", ".join(f"{preset} {_count(number)}" for preset, number in family.parameters.items())
        yield "parameters", sizes
    reasons: dict[str, list[str]] = {}
    for preset, reason in family.unreadable.items():
        reasons.setdefault(reason, []).append(preset)
    for reason, presets in reasons.items():
        yield "cannot read", f"presets {', '.join(presets)}: {reason}"
    if family.obstacle is not None and family.parameters:
        yield "reason", family.obstacle
    trial = family.trial
    if trial is None:
        return
    yield (
        "replay",
        f"{_bytes(trial.row_bytes)} a row, all told: {_bytes(trial.row_bytes * family.run_rows)} for the "
        f"{family.run_rows:,} rows of this run, {_bytes(trial.row_bytes * family.capacity)} for the default capacity "
        f"of {family.capacity:,} rows",
    )
    yield (
        "time",
        f"about {_duration(trial.training_seconds(report.steps))} for {report.steps:,} agent steps, evaluations left "
        f"out: {1000 * trial.acting_seconds:.1f} ms a step to act and "
        f"{1000 * trial.updates_per_step * trial.update_seconds:.0f} ms to learn, measured on this processor with the "
        f"preset {family.measured}",
    )
    if trial.learning_starts >= report.steps:
        yield "learning", f"starts after {trial.learning_starts:,} agent steps: raise --steps above that"


def _next(report: EnvironmentReport) -> list[str]:
    commands = [
        " ".join(["worldloom train", family.name, *report.arguments, *family.options])
        for family in report.families
        if family.obstacle is None
    ]
    if commands:
        return ["Next:", *(f"  {command}" for command in commands)]
    again = " ".join(["worldloom check", report.name, *report.arguments[2:]])
    return ["Next: mend what is named above, then check again:", f"  {again}"]


def _count(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


def _bytes(number: float) -> str:
    power = min(4, int(math.log(number, 1000)))
    size = f"{number / 1000**power:.1f}".removesuffix(".0")
    return f"{size} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
