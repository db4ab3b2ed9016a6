"""What a run refuses to be told, and numbers of a preset that it replaces."""

from __future__ import annotations

import ast
import inspect
import math
from types import ModuleType
from typing import Any

import pytest

from worldloom_rl.recipes import options as recipe_options
from worldloom_rl.recipes import tdmpc2_options
from worldloom_rl.recipes.options import DreamerV3RunConfig, JEPARunConfig, RunConfig, TDMPC2RunConfig
from worldloom_rl.training import options as run_options
from worldloom_rl.training.fields import typed
from worldloom_rl.training.overrides import preset_config

COUNTS = (
    "steps", "num_envs", "capacity", "eval_every", "eval_episodes", "final_eval_episodes", "checkpoint_every",
    "threads", "action_repeat", "time_limit",
)  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, True])
def test_a_count_below_one_or_not_whole_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a whole number in \[1, \d+\].*, got {value}"):
        RunConfig(env="Pendulum-v1", **{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay_gb": 0.0}, "replay_gb must be a number in"),
        ({"replay_gb": math.nan}, "replay_gb must be a number in"),
        ({"memmap_above_gb": math.nan}, r"memmap_above_gb must be a number in \[0.0,"),
        ({"target_return": math.nan}, "target_return must be a number or None, got nan"),
        ({"seed": -1}, r"seed must be a whole number in \[0, "),
    ],
)
def test_other_numbers_that_cannot_be_meant_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DreamerV3RunConfig(env="Pendulum-v1", **changes)


def test_the_families_own_numbers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="seed_steps must be a whole number in"):
        TDMPC2RunConfig(env="Pendulum-v1", seed_steps=0)
    with pytest.raises(ValueError, match="image_size must be a whole number in"):
        JEPARunConfig(env="Pendulum-v1", image_size=0)
    with pytest.raises(ValueError, match="held_out must be a number, got nan"):
        JEPARunConfig(env="Pendulum-v1", held_out=math.nan)
    with pytest.raises(ValueError, match=r"held_out must be a share in \[0, 1\), got 1.0"):
        JEPARunConfig(env="Pendulum-v1", held_out=1.0)


def test_an_action_repeat_is_the_one_given_or_the_default_of_the_domain() -> None:
    assert RunConfig(env="dmc:cartpole-balance").repeat == 2
    assert RunConfig(env="dmc:cartpole-balance", action_repeat=1).repeat == 1
    assert RunConfig(env="Pendulum-v1").repeat == 1


# ------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("levels=[8,8]", "levels", (8, 8)),
        ("levels=[ 5, 4 ]", "levels", (5, 4)),
        ("horizon=5", "horizon", 5),
        ("discount=0.9", "discount", 0.9),
        ('quantizer="fsq"', "quantizer", "fsq"),
        ("quantizer='fsq'", "quantizer", "fsq"),
        ("quantizer=fsq", "quantizer", "fsq"),
    ],
)
def test_an_override_takes_the_type_of_its_field(override: str, name: str, value: Any) -> None:
    assert getattr(preset_config("tokens", "tiny", (override,)), name) == value


def test_a_field_of_one_number_or_several_takes_both() -> None:
    assert preset_config("tdmpc2", "tiny", ("discount=0.5",)).discount == 0.5
    assert preset_config("tdmpc2", "tiny", ("episodic=True",), episodic=False).episodic is True
    with pytest.raises(ValueError, match=r"discount must be a number in \[0.0, 1.0\] or a tuple .* got 'high'"):
        preset_config("tdmpc2", "tiny", ('discount="high"',))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("levels=8", r"levels must be a tuple of 1 to 16 whole numbers in \[3, 1024\], got 8"),
        ("levels=[8,0.5]", r"levels must be a tuple of 1 to 16 whole numbers in \[3, 1024\], got \(8, 0.5\)"),
        ('horizon="long"', r"horizon must be a whole number in \[1, 1000\], got 'long'"),
        ("horizon=long", r"horizon must be a whole number in \[1, 1000\], got 'long'"),
        ("horizon=[3]", r"horizon must be a whole number in \[1, 1000\], got \(3,\)"),
        ("horizon=true", r"horizon must be a whole number in \[1, 1000\], got True"),
        ("discount=1e999", r"discount must be a number in \[0.0, 1.0\], got inf"),
        ("quantizer=8", r"quantizer must be one of \['vq', 'vq-ema', 'fsq'\], got 8"),
        ("horizon=", r"'horizon=' needs a number"),
        ("levels=[8,8", r"needs a number, true or false after '=', or a list"),
        ("levls=[8,8]", r"Did you mean 'levels'"),
        ("horizon", r"written name=value"),
    ],
)
def test_an_override_of_another_type_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset_config("tokens", "tiny", (override,))


@pytest.mark.parametrize("module", [recipe_options, run_options, tdmpc2_options])
def test_options_import_nothing_heavy_before_a_method_asks(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    named = [[alias.name for alias in node.names] for node in tree.body if isinstance(node, ast.Import)]
    named += [[str(node.module)] for node in tree.body if isinstance(node, ast.ImportFrom)]
    light = {"__future__", "dataclasses", "functools", "importlib.util", "math", "typing"}
    light |= {
        f"worldloom_rl.{name}" for name in ("config", "extras", "tasks", "recipes.suites", "recipes.tdmpc2_options")
    }
    light |= {"worldloom_rl.training.options", "worldloom_rl.training.env_arguments"}
    assert {name for names in named for name in names} <= light


@pytest.mark.parametrize(("given", "read"), [("", ()), ("minari:a", ("minari:a",)), (["a", "b"], ("a", "b"))])
def test_a_jepas_data_may_be_one_text_as_older_runs_have_it(given: Any, read: tuple[str, ...]) -> None:
    assert typed(JEPARunConfig, {"data": given}, "config.json") == {"data": read}
    assert JEPARunConfig(env="Pendulum-v1", data=given).data == read
    with pytest.raises(ValueError, match="data takes a tuple of texts, got 3"):
        typed(JEPARunConfig, {"data": 3}, "config.json")
