"""Families and presets by name, our own and those of an installed third party."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldloom_rl import WorldModel, list_world_models, register_world_model
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.pretrained import registry
from worldloom_rl.pretrained.registry import find_family, find_preset, register_family


def test_the_presets_of_tdmpc2_are_those_of_the_design():
    assert list_world_models("tdmpc2:*") == [f"tdmpc2:{size}" for size in ("tiny", "1m", "5m", "19m", "48m", "317m")]


def test_a_pattern_selects_presets_across_families():
    assert "tdmpc2:tiny" in list_world_models("*:tiny")
    assert list_world_models("*:none") == []


def test_a_family_has_its_model_class_its_configuration_and_its_presets():
    family = find_family("tdmpc2")
    assert family.model_class is TDMPC2
    assert family.config_class is TDMPC2Config
    assert find_preset("tdmpc2:5m") == (family, TDMPC2Config())


@pytest.mark.parametrize("name", sorted({preset.partition(":")[0] for preset in list_world_models()}))
def test_the_class_that_a_family_names_is_a_world_model_of_that_name(name):
    family = find_family(name)
    assert issubclass(family.model_class, WorldModel)
    assert family.model_class.model_type == name
    assert all(type(config) is family.config_class for config in family.presets.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tdmcp2:5m", r"No world model family is named 'tdmcp2'. Did you mean 'tdmpc2'\?"),
        ("tdmpc2:5mm", r"'tdmpc2' has no preset '5mm'. Did you mean .*'tdmpc2:5m'"),
        ("tdmpc2", r"named 'family:preset', got 'tdmpc2'. Did you mean .*'tdmpc2:"),
        ("tdmpc2:", r"'tdmpc2' has no preset ''"),
        (":tiny", "No world model family is named ''"),
    ],
)
def test_a_wrong_name_is_answered_with_the_closest_ones(name, message):
    with pytest.raises(ValueError, match=message):
        find_preset(name)


def test_a_family_needs_a_tiny_preset():
    with pytest.raises(ValueError, match="'mine' lacks the preset 'tiny'"):
        register_world_model("mine", WorldModelConfig, {"big": WorldModelConfig()})


def test_a_family_name_is_not_given_twice(monkeypatch):
    monkeypatch.setattr(registry, "_families", {})

    class First:
        pass

    class Second:
        pass

    presets = {"tiny": WorldModelConfig()}
    assert register_world_model("mine", WorldModelConfig, presets)(First) is First
    assert First.model_type == "mine"
    register_world_model("mine", WorldModelConfig, presets)(First)  # the same class again, as after a module reload
    with pytest.raises(ValueError, match=r"'mine' is taken by .*First"):
        register_world_model("mine", WorldModelConfig, presets)(Second)
    with pytest.raises(ValueError, match=r"'mine' is taken by .*First"):
        register_family("mine", WorldModelConfig, presets, "somewhere.else:Third")


MODULE = """
from dataclasses import dataclass
from worldloom_rl import register_world_model
from worldloom_rl.config import WorldModelConfig

@dataclass(frozen=True)
class Config(WorldModelConfig):
    width: int = 3

@register_world_model("loomed", Config, {"tiny": Config(), "wide": Config(width=9)})
class Loomed:
    pass
"""

ASK = """
import sys
from worldloom_rl import list_world_models
from worldloom_rl.pretrained.registry import find_preset
assert "loomed_package" not in sys.modules
family, config = find_preset("loomed:wide")
assert family.model_class.__module__ == "loomed_package" and config.width == 9, family
assert {"loomed:tiny", "loomed:wide", "tdmpc2:5m"} <= set(list_world_models()), list_world_models()
try:
    find_preset("lomed:wide")
except ValueError as error:
    assert "Did you mean 'loomed'" in str(error), error
else:
    raise AssertionError("no error")
"""


def test_the_family_of_an_installed_distribution_is_found_by_its_entry_point(tmp_path: Path):
    (tmp_path / "loomed_package.py").write_text(MODULE)
    info = tmp_path / "loomed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loomed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[worldloom_rl.models]\nloomed = loomed_package\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    asked = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert asked.returncode == 0, asked.stderr
