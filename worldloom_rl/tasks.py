"""Several tasks of one agent: names, widths and lengths, and the lists of tasks that TD-MPC2 was published on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldloom_rl.config import Json, did_you_mean


@dataclass(frozen=True)
class TaskSet:
    """Tasks in the order of their numbers.

    Attributes:
        names: of environments, as `make_env` takes them, or of a published list.
        observation_widths: numbers that each observes; the agent sees them with zeros behind, to the widest.
        action_widths: actions of each; the agent gives as many as the widest has, and those behind are left out.
        episode_lengths: of the longest episode, in agent steps.
    """

    names: tuple[str, ...]
    observation_widths: tuple[int, ...]
    action_widths: tuple[int, ...]
    episode_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        columns = {
            "observation_widths": self.observation_widths,
            "action_widths": self.action_widths,
            "episode_lengths": self.episode_lengths,
        }
        if not self.names:
            raise ValueError("A set of tasks has at least one; none was named.")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"The tasks {twice} are named more than once; name each once.")
        for column, values in columns.items():
            if len(values) != len(self.names) or min(values) < 1:
                raise ValueError(f"{column} must be a number above 0 for each of {list(self.names)}, got {values}.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def observation_width(self) -> int:
        """Of the widest task."""
        return max(self.observation_widths)

    @property
    def action_width(self) -> int:
        """Of the widest task."""
        return max(self.action_widths)

    def number(self, name: str) -> int:
        """The task's number; names count without what stands before the last ":" where that is enough.

        Raises ValueError for another task, with the closest names.
        """
        if name in self.names:
            return self.names.index(name)
        short = [number for number, known in enumerate(self.names) if plain_name(known) == plain_name(name)]
        if len(short) != 1:
            raise ValueError(f"{name!r} is none of the tasks.{did_you_mean(name, self.names)}")
        return short[0]


def trained_on(config: Mapping[str, Json]) -> str:
    """The environment of a run's configuration, or its tasks."""
    return str(config["env"]) or "+".join(config.get("tasks", ()))


def plain_name(name: str) -> str:
    """ "dmc:walker-walk" → "walker-walk", as data of several tasks name it."""
    return name.rpartition(":")[2]


def named_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """The tasks that these names stand for: a published list's name for all of it, every other for itself."""
    return tuple(task for name in names for task in LISTS.get(name, (name,)))


def published_task(name: str) -> TaskSet | None:
    """Widths and length of one task of the published lists, None for any other."""
    if name not in _WIDTHS:
        return None
    observed, actions = _WIDTHS[name]
    return TaskSet((name,), (observed,), (actions,), (_METAWORLD_STEPS if name.startswith(_MW) else _DMC_STEPS,))


def published_tasks(names: Sequence[str]) -> TaskSet:
    """Widths and lengths of tasks of the published lists. Raises ValueError naming one that is in none of them."""
    known = [published_task(name) for name in names]
    for name, task in zip(names, known, strict=True):
        if task is None:
            raise ValueError(f"{name!r} is no task of {' and '.join(LISTS)}.{did_you_mean(name, _WIDTHS)}")
    told = [task for task in known if task is not None]
    return TaskSet(
        tuple(names),
        tuple(task.observation_width for task in told),
        tuple(task.action_width for task in told),
        tuple(task.episode_lengths[0] for task in told),
    )


def is_metaworld(name: str) -> bool:
    """Whether a task is one of Meta-World's, which are judged by success."""
    return plain_name(name).startswith(_MW)


def environment_name(name: str) -> str:
    """What `make_env` calls a task of the published lists; every other name as it is.

    The lists' custom tasks and Meta-World's are under no name of `make_env`.
    """
    return f"dmc:{name}" if name in _WIDTHS and not name.startswith(_MW) else name


# nicklashansen/tdmpc2, common/__init__.py and envs/: the order is that of the numbers in its data and checkpoints.
_MW = "mw-"  # before Meta-World's names
_DMC_STEPS, _METAWORLD_STEPS = 500, 100  # agent steps of an episode, an action held for two simulator steps
_DMC = {
    "walker-stand": (24, 6), "walker-walk": (24, 6), "walker-run": (24, 6), "cheetah-run": (17, 6),
    "reacher-easy": (6, 2), "reacher-hard": (6, 2), "acrobot-swingup": (6, 1), "pendulum-swingup": (3, 1),
    "cartpole-balance": (5, 1), "cartpole-balance-sparse": (5, 1), "cartpole-swingup": (5, 1),
    "cartpole-swingup-sparse": (5, 1), "cup-catch": (8, 2), "finger-spin": (9, 2), "finger-turn-easy": (12, 2),
    "finger-turn-hard": (12, 2), "fish-swim": (24, 5), "hopper-stand": (15, 4), "hopper-hop": (15, 4),
    # Not in DeepMind Control: the authors' own
    "walker-walk-backwards": (24, 6), "walker-run-backwards": (24, 6), "cheetah-run-backwards": (17, 6),
    "cheetah-run-front": (17, 6), "cheetah-run-back": (17, 6), "cheetah-jump": (17, 6),
    "hopper-hop-backwards": (15, 4), "reacher-three-easy": (8, 3), "reacher-three-hard": (8, 3),
    "cup-spin": (8, 2), "pendulum-spin": (3, 1),
}  # fmt: skip
_METAWORLD = (
    "assembly", "basketball", "button-press-topdown", "button-press-topdown-wall", "button-press",
    "button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn", "disassemble", "door-open",
    "door-close", "drawer-close", "drawer-open", "faucet-open", "faucet-close", "hammer", "handle-press-side",
    "handle-press", "handle-pull-side", "handle-pull", "lever-pull", "peg-insert-side", "peg-unplug-side",
    "pick-out-of-hole", "pick-place", "pick-place-wall", "plate-slide", "plate-slide-side", "plate-slide-back",
    "plate-slide-back-side", "push-back", "push", "push-wall", "reach", "reach-wall", "shelf-place", "soccer",
    "stick-push", "stick-pull", "sweep-into", "sweep", "window-open", "window-close", "bin-picking", "box-close",
    "door-lock", "door-unlock", "hand-insert",
)  # fmt: skip
_WIDTHS = {**_DMC, **{f"{_MW}{name}": (39, 4) for name in _METAWORLD}}
LISTS = {"mt30": tuple(_DMC), "mt80": tuple(_WIDTHS)}
