"""The key contract and its renaming."""

from __future__ import annotations

import json

import pytest

from worldloom_rl.keys import LATENT, KeyMap, as_tuple, previous_action_keys


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("a", ("a",)),
        (("a", "b"), ("a", "b")),
        (("a", ("b", "c")), ("a", "b", "c")),
        ((("a", "b"), "c"), ("a", "b", "c")),
    ],
)
def test_as_tuple_flattens_nested_keys(key, parts):
    assert as_tuple(key) == parts


def test_one_action_is_remembered_under_previous_action():
    assert previous_action_keys(["action"]) == ("previous_action",)
    assert previous_action_keys([("agent", "action")]) == ("previous_action",)


def test_a_composite_action_is_remembered_under_its_own_structure():
    assert previous_action_keys(["gas", ("arm", "left")]) == (
        ("previous_action", "gas"),
        ("previous_action", "arm", "left"),
    )


def test_default_names_are_the_contract_of_the_design():
    keys = KeyMap()
    assert keys.leaf("deterministic") == (LATENT, "deterministic")
    assert (keys.reward, keys.continuation, keys.is_init, keys.terminated) == (
        "reward", "continue", "is_init", "terminated",
    )  # fmt: skip


def test_a_renamed_latent_moves_all_its_leaves():
    keys = KeyMap.from_names({"latent": ("my", "state"), "previous_action": ("my", "last")})
    assert keys.leaf("stochastic") == ("my", "state", "stochastic")
    assert keys.previous_actions(["a", "b"]) == (("my", "last", "a"), ("my", "last", "b"))


def test_the_key_map_survives_json():
    keys = KeyMap.from_names({"reward": ("my", "reward"), "continuation": "alive"})
    assert KeyMap.from_names(json.loads(json.dumps(keys.to_json()))) == keys


def test_an_unknown_name_is_refused_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"has the names .*'reward'.*got \['rewards'\]"):
        KeyMap.from_names({"rewards": "r"})


@pytest.mark.parametrize("key", [3, ("a", 3), None])
def test_what_is_no_nested_key_is_refused(key):
    with pytest.raises(TypeError, match="nested key is a string or a tuple"):
        KeyMap.from_names({"reward": key})
