"""Recorded data by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torchrl.data import Bounded, Composite

from worldloom_rl.data.episodes import Episodes
from worldloom_rl.data.hdf5_recording import HDF5Recording
from worldloom_rl.data.joined import join, short_name
from worldloom_rl.data.lerobot_recording import LeRobotRecording
from worldloom_rl.data.minari_recording import MinariRecording
from worldloom_rl.data.newt_files import open_newt
from worldloom_rl.data.run_episodes import is_run, open_run
from worldloom_rl.data.tdmpc2_chunks import open_chunks
from worldloom_rl.keys import ACTION
from worldloom_rl.specs.observations import is_byte_image, leaves_of

_ROUNDING = 1e-3  # of the range of an action, that recorded ones may reach beyond its bounds
KINDS = ("tdmpc2", "newt", "minari", "lerobot")  # the words before ":"


def open_episodes(
    source: str | Sequence[str],
    tasks: Sequence[str] | None = None,
    image_size: int | None = None,
    action_specs: Mapping[str, Composite] | None = None,
) -> Episodes:
    """The recorded episodes that a name or a path stands for; of several, all as one set (see `join`).

        tdmpc2:DIR    chunk files of TD-MPC2 (`open_chunks`)     newt:PATH     demonstrations of newt (`open_newt`)
        minari:NAME   a local dataset (`MinariRecording`)        lerobot:DIR   a local dataset (`LeRobotRecording`)
        RUN           a run's directory: its newest checkpoint's replay (`open_run`)
        PATH          an HDF5 file or a directory of them (`HDF5Recording`)
        NAME=…        one of these, all of the task NAME

    Args:
        tasks: names in the order that numbers them; episodes of other tasks are left out.
        image_size: rows and columns that images are brought to by averaging areas; by default they stay as they are.
        action_specs: of the environments, by the task's name: their bounds take the place of those that data without
            declared ones shows, and declared ones have to be the same.
    Raises ImportError without the extra that a kind needs, FileNotFoundError if there is no such data, ValueError for
    what it holds.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}.")
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise ValueError(f"No data is named: give a path, or one of {', '.join(f'{kind}:…' for kind in KINDS)}.")
    places = [str(Path(each).absolute()) if Path(each).exists() else each for each in sources]
    if twice := [each for number, each in enumerate(sources) if places[number] in places[:number]]:
        raise ValueError(f"The data {twice[0]} is named twice: its episodes would count double; name it once.")
    parts = [part for each in sources for part in _named(each, tasks, image_size)]
    for part in parts:
        _bound(part, action_specs or {})
    return join(parts, tasks)


def _named(source: str, tasks: Sequence[str] | None, image_size: int | None) -> Sequence[Episodes]:
    name, equals, rest = source.partition("=")
    known = source.partition(":")[0] in KINDS or Path(source).exists()
    if known or not equals:
        return _opened(source, tasks, image_size)
    parts = _opened(rest, (name,), image_size)
    for part in parts:
        part.name_all(name)
    return parts


def _opened(source: str, tasks: Sequence[str] | None, image_size: int | None) -> Sequence[Episodes]:
    kind, _, rest = source.partition(":")
    if kind == "tdmpc2":
        return [open_chunks(Path(rest), tasks)]
    if kind == "newt":
        return open_newt(Path(rest))
    if kind == "minari":
        return [MinariRecording(rest, image_size=image_size)]
    if kind == "lerobot":
        return [LeRobotRecording(Path(rest), image_size=image_size)]
    if is_run(Path(source)):
        return [_of_size(open_run(Path(source)), image_size)]
    return [HDF5Recording(Path(source), image_size=image_size)]


def _of_size(episodes: Episodes, image_size: int | None) -> Episodes:
    """The episodes, whose images are as the run saw them. Raises ValueError if that is another size."""
    for key, leaf in leaves_of(episodes.observation_spec).items():
        if image_size is not None and is_byte_image(leaf) and tuple(leaf.shape[1:]) != (image_size, image_size):
            raise ValueError(
                f"{episodes.source} holds {key!r} as images {list(leaf.shape[1:])}, not {image_size} by {image_size}: "
                "give the image_size of that run."
            )
    return episodes


def _bound(part: Episodes, action_specs: Mapping[str, Composite]) -> None:
    """Gives a part of one task the bounds of its environment."""
    by_name = {short_name(name): spec for name, spec in action_specs.items()}
    spec = None if part.several else by_name.get(short_name(part.names[0]) if part.names else "")
    if spec is None and not part.names and len(by_name) == 1:
        spec = next(iter(by_name.values()))
    if spec is None:
        return
    ours, theirs = ({key: leaf.shape for key, leaf in leaves_of(each).items()} for each in (part.action_spec, spec))
    if ours != theirs:
        raise ValueError(f"{part.source} has the actions {ours}, the environment {theirs}.")
    if not part.unit_actions:
        check_actions(part, spec)
        part.action_spec = spec


def check_actions(part: Episodes, spec: Composite) -> None:
    """Raise ValueError if actions are declared with other bounds than their environment's, or were seen beyond these.

    Rounding does not count, nor does what is behind an environment's narrower vectors.
    """
    if part.seen_actions is None:
        _check_declared(part, spec)
    elif isinstance(spec[ACTION], Bounded):
        _check_within(part, *part.seen_actions, spec)


def _check_declared(part: Episodes, spec: Composite) -> None:
    declared = leaves_of(part.action_spec)
    for key, leaf in leaves_of(spec).items():
        theirs = declared.get(key)
        if not isinstance(leaf, Bounded) or not isinstance(theirs, Bounded):
            continue
        own = [bound.reshape(-1) for bound in (leaf.space.low, leaf.space.high)]
        given = [bound.reshape(-1)[: len(own[0])] for bound in (theirs.space.low, theirs.space.high)]
        slack = _ROUNDING * (own[1] - own[0])
        apart = [(ours - other).abs() > slack for ours, other in zip(own, given, strict=True)]
        if bool((apart[0] | apart[1]).any()):
            column = int((apart[0] | apart[1]).nonzero()[0, 0])
            bounds = [float(bound[column]) for bound in (*given, *own)]
            raise ValueError(
                "{}: column {} of {!r} is declared to be in [{:.4g}, {:.4g}], but the environment takes [{:.4g}, "
                "{:.4g}]: is it the one that was recorded? An action would not mean the same.".format(
                    part.source, column, key, *bounds
                )
            )


def _check_within(part: Episodes, low: Tensor, high: Tensor, spec: Composite) -> None:
    leaf = spec[ACTION]
    low, high = (bound[: len(leaf.space.low)] for bound in (low, high))
    slack = _ROUNDING * (leaf.space.high - leaf.space.low)
    outside = (low < leaf.space.low - slack) | (high > leaf.space.high + slack)
    if bool(outside.any()):
        column = int(outside.nonzero()[0, 0])
        bounds = [float(bound[column]) for bound in (low, high, leaf.space.low, leaf.space.high)]
        raise ValueError(
            "{}: column {} of the actions is in [{:.4g}, {:.4g}], but the environment takes [{:.4g}, {:.4g}]: bring it "
            "to the environment's units, or cut it as the environment did.".format(part.source, column, *bounds)
        )
