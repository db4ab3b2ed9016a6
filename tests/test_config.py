"""Configurations and specs as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    Unbounded,
)

from worldloom_rl.config import Limits, WorldModelConfig, added_field, check_range, did_you_mean, name_sizes, ranged
from worldloom_rl.models.tdmpc2.config import PRESETS, TDMPC2Config, discount_for
from worldloom_rl.specs.saved import spec_from_json, spec_to_json


@dataclass(frozen=True)
class Nested(WorldModelConfig):
    width: int = 3
    shapes: tuple[tuple[int, ...], ...] = ((1, 2), (3,))
    rate: float = 0.1
    name: str = "a"
    flag: bool = False


@pytest.mark.parametrize("config", [Nested(), Nested(shapes=()), *PRESETS.values()])
def test_a_configuration_survives_json(config):
    text = json.dumps(config.to_json())
    assert type(config).from_json(json.loads(text)) == config


def test_tuples_become_lists_in_json():
    assert Nested().to_json() == {"width": 3, "shapes": [[1, 2], [3]], "rate": 0.1, "name": "a", "flag": False}


def test_an_unknown_field_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match=r"Nested has no field 'widht'. Did you mean 'width'\?"):
        Nested.from_json({**Nested().to_json(), "widht": 4})


def test_a_missing_field_is_refused_by_name():
    values = Nested().to_json()
    del values["rate"]
    with pytest.raises(ValueError, match=r"lacks the fields \['rate'\] of Nested"):
        Nested.from_json(values)


def test_a_field_that_older_files_lack_has_the_value_that_they_mean():
    @dataclass(frozen=True)
    class Grown(WorldModelConfig):
        width: int = 3
        gain: float = added_field(2.0, before=1.0)

    assert Grown().gain == 2.0
    assert Grown.from_json({"width": 4}) == Grown(4, 1.0)
    assert Grown.from_json(Grown().to_json()) == Grown()


def test_did_you_mean_lists_all_names_when_none_is_close():
    assert did_you_mean("zzz", ["b", "a"]) == " Known are ['a', 'b']."
    assert did_you_mean("tdmcp2", ["tdmpc2", "dreamerv3"]) == " Did you mean 'tdmpc2'?"


@pytest.mark.parametrize("value", [-1, 2, True, "1", None, float("nan")])
def test_check_range_refuses_what_is_no_number_in_the_range(value):
    with pytest.raises(ValueError, match=r"rate must be a number in \[0.0, 1.0\], got"):
        check_range("rate", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_check_range_accepts_the_range_with_its_ends(value):
    check_range("rate", value, 0.0, 1.0)


def test_whole_bounds_ask_for_a_whole_number():
    check_range("width", 3, 1, 9)
    with pytest.raises(ValueError, match=r"width must be a whole number in \[1, 9\], got 3.0"):
        check_range("width", 3.0, 1, 9)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latent_dim", 2**20, "latent_dim must be a whole number in"),
        ("mlp_dim", 64.5, "mlp_dim must be a whole number in"),
        ("action_dims", (3, 0), "action_dims must be a whole number in"),
        ("action_dims", 3, "action_dims must be a tuple"),
        ("episodic", "false", "episodic must be true or false, got 'false'"),
        ("latent_dim", 510, "not a multiple of simnorm_dim 8"),
        ("num_elites", 513, "between 1 and num_samples 512"),
        ("num_policy_trajectories", 513, "must not exceed num_samples 512"),
        ("vmin", 10.0, "vmin must be below vmax"),
        ("discount", 1.5, "discount must be a number"),
        ("discount", (0.9, 0.9), "2 discounts were given for 0 tasks"),
        ("horizon", 0, "horizon must be a whole number in"),
        ("horizon", "3", "horizon must be a whole number in"),
    ],
)
def test_a_bad_number_stops_when_the_configuration_is_built(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TDMPC2Config(), **{field: value})


@dataclass(frozen=True)
class Typed(WorldModelConfig):
    width: int = ranged(3, 1, 9)
    rate: float = ranged(0.5, 0.0, 1.0)
    rates: float | tuple[float, ...] = ranged(0.5, 0.0, 1.0)
    sizes: tuple[int, ...] = ranged((8, 8), 3, 100, lengths=(1, 3))
    pair: tuple[int, str] = (1, "a")
    kind: Literal["a", "b"] = "a"
    name: str | None = None
    depth: int = 3
    gain: float = added_field(1.0, before=0.5, limits=Limits(0.0, 2.0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", "3", r"width must be a whole number in \[1, 9\], got '3'"),
        ("width", (3,), r"width must be a whole number in \[1, 9\], got \(3,\)"),
        ("width", True, r"width must be a whole number in \[1, 9\], got True"),
        ("rate", 2, r"rate must be a number in \[0.0, 1.0\], got 2"),
        ("rates", (0.5, 2.0), r"rates must be a number in \[0.0, 1.0\], got 2.0"),
        ("rates", "x", r"rates must be a number in \[0.0, 1.0\] or a tuple of numbers in \[0.0, 1.0\], got 'x'"),
        ("sizes", 8, "sizes must be a tuple of 1 to 3 whole numbers in .*, got 8"),
        ("sizes", (), "sizes must be a tuple of 1 to 3 whole numbers"),
        ("sizes", (8,) * 4, "sizes must be a tuple of 1 to 3 whole numbers"),
        ("sizes", (8, 2.5), r"sizes must be a tuple of 1 to 3 whole numbers .* got \(8, 2.5\)"),
        ("sizes", (8, 2), r"sizes must be a whole number in \[3, 100\], got 2"),
        ("pair", (1, 2), r"pair must be a tuple \(a whole number, a text\), got"),
        ("pair", (1,), "pair must be a tuple"),
        ("kind", "c", r"kind must be one of \['a', 'b'\], got 'c'"),
        ("kind", None, "kind must be one of"),
        ("name", 3, "name must be a text or None, got 3"),
        ("depth", 3.0, "depth must be a whole number, got 3.0"),
        ("depth", "deep", "depth must be a whole number, got 'deep'"),
        ("gain", 3.0, r"gain must be a number in \[0.0, 2.0\], got 3.0"),
    ],
)
def test_a_value_of_a_wrong_type_or_outside_its_range_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message):
        Typed(**{field: value})
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Typed(), **{field: value})


def test_a_list_becomes_the_tuple_that_it_means():
    config = dataclasses.replace(Typed(), sizes=[4, 5], rates=[0.25])
    assert (config.sizes, config.rates) == ((4, 5), (0.25,))
    assert hash(config) == hash(Typed(sizes=(4, 5), rates=(0.25,)))
    assert Nested(shapes=[[1], [2, 3]]).shapes == ((1,), (2, 3))


def test_a_configuration_of_a_size_takes_changes():
    assert TDMPC2Config.from_size("5m", horizon=5) == dataclasses.replace(PRESETS["5m"], horizon=5)
    assert TDMPC2Config.from_size("tiny", action_dims=[2, 3]).action_dims == (2, 3)


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        ("5mm", {}, r"TDMPC2Config has no size '5mm'. Did you mean .*'5m'"),
        ("tdmpc2:5m", {}, "TDMPC2Config has no size 'tdmpc2:5m'"),
        ("5m", {"horizn": 3}, r"TDMPC2Config has no field 'horizn'. Did you mean 'horizon'\?"),
        ("5m", {"horizon": 0}, "horizon must be a whole number in"),
    ],
)
def test_an_unknown_size_or_field_is_answered_with_the_closest(size, changes, message):
    with pytest.raises(ValueError, match=message):
        TDMPC2Config.from_size(size, **changes)


def test_the_configuration_of_a_third_party_has_sizes_too():
    name_sizes(Typed, {"tiny": Typed(width=1)})
    assert Typed.from_size("tiny", depth=2) == Typed(width=1, depth=2)
    with pytest.raises(ValueError, match="Nested has no size 'tiny'"):
        Nested.from_size("tiny")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Nested(), "Nested()"),
        (Nested(width=4, name="b"), "Nested(width=4, name='b')"),
        (TDMPC2Config(), "TDMPC2Config()"),
        (TDMPC2Config(latent_dim=128), "TDMPC2Config(latent_dim=128)"),
        (PRESETS["tiny"], "TDMPC2Config.from_size('tiny')"),
        (dataclasses.replace(PRESETS["tiny"], horizon=5), "TDMPC2Config.from_size('tiny', horizon=5)"),
    ],
    ids=str,
)
def test_a_configuration_prints_as_what_makes_it(config, text):
    assert repr(config) == text
    assert eval(text) == config


def test_a_family_may_print_its_configuration_otherwise():
    @dataclass(frozen=True)
    class Own(WorldModelConfig):
        width: int = 3

        def __repr__(self) -> str:
            return f"<{self.width}>"

    assert repr(Own()) == "<3>"


@pytest.mark.parametrize(("length", "discount"), [(500, 0.99), (1000, 0.995), (5, 0.95), (100, 0.95), (200, 0.975)])
def test_discount_for_matches_the_table_of_the_official_heuristic(length, discount):
    assert discount_for(length) == pytest.approx(discount, abs=1e-12)


SPECS = {
    "unbounded": Unbounded((3,)),
    "unbounded int": Unbounded((), dtype=torch.int64),
    "bounded": Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32),
    "bounded each": Bounded(torch.tensor([-1.0, 0.1]), torch.tensor([2.0, 1 / 3]), shape=(2,), dtype=torch.float32),
    "bounded double": Bounded(torch.tensor([0.1, 0.2]).double(), 1.0, shape=(2,), dtype=torch.float64),
    "bounded infinite": Bounded(
        torch.tensor([-1.0, -torch.inf]), torch.tensor([1.0, torch.inf]), shape=(2,), dtype=torch.float32
    ),
    "pixels": Bounded(0, 255, shape=(3, 64, 64), dtype=torch.uint8),
    "one-hot": OneHot(4),
    "one-hot bool": OneHot(4, dtype=torch.bool),
    "categorical": Categorical(5, shape=(), dtype=torch.int64),
    "categorical vector": Categorical(5, shape=(2,), dtype=torch.int32),
    "multi-one-hot": MultiOneHot([2, 3]),
    "multi-categorical": MultiCategorical([2, 3]),
    "binary": Binary(3),
    "no dimensions": Bounded(0.0, 2.0, shape=(), dtype=torch.float32),
}


@pytest.mark.parametrize("leaf", SPECS.values(), ids=SPECS)
def test_every_kind_of_spec_survives_json(leaf):
    spec = Composite(observation=leaf)
    back = spec_from_json(json.loads(json.dumps(spec_to_json(spec))))
    assert back == spec
    assert back["observation"].dtype == leaf.dtype


def test_a_nested_spec_keeps_its_keys_in_order():
    spec = Composite(b=Unbounded((1,)), a=Composite(d=OneHot(2), c=Composite(e=Unbounded((2,)))))
    back = spec_from_json(json.loads(json.dumps(spec_to_json(spec))))
    assert back == spec
    assert list(back.keys(True, True)) == ["b", ("a", "d"), ("a", "c", "e")]


def test_a_spec_that_a_checkpoint_cannot_describe_is_refused_by_key():
    with pytest.raises(ValueError, match=r"spec of 'text' is a NonTensor"):
        spec_to_json(Composite(text=NonTensor(shape=())))


def changed(**changes):
    (entry,) = spec_to_json(Composite(x=Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32)))["leaves"]
    return {"leaves": [{**entry, **changes}]}


@pytest.mark.parametrize("shape", [[2**27], [2**14, 2**14], [-1], [10**12, 10**12], [2**62, 4]], ids=str)
def test_an_absurd_shape_is_refused_before_memory_is_taken(shape):
    with pytest.raises(ValueError, match=r"spec leaf \['x'\].*absurd shape"):
        spec_from_json(changed(shape=shape))


@pytest.mark.parametrize("count", [-1, 0, 2**40, "3", None, 1.5, True, [3]])
@pytest.mark.parametrize("kind", ["OneHot", "Categorical"])
def test_an_absurd_class_count_is_refused(kind, count):
    with pytest.raises(ValueError, match=r"spec leaf \['x'\] is"):
        spec_from_json(changed(kind=kind, n=count, shape=[3], dtype="int64"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "Gizmo"}, "unknown kind 'Gizmo'"),
        ({"dtype": "nn"}, "unknown dtype 'nn'"),
        ({"dtype": "float33"}, "incomplete or wrong"),
        ({"low": [1.0, 2.0, 3.0]}, r"\['x'\] is incomplete or wrong: shape"),
        ({"low": "zero"}, r"\['x'\] is incomplete or wrong"),
        ({"shape": 3}, "incomplete or wrong"),
        ({"shape": [1.5]}, "incomplete or wrong"),
        ({"key": None}, "incomplete or wrong"),
        ({"key": []}, "incomplete or wrong"),
    ],
    ids=str,
)
def test_a_wrong_description_of_a_spec_is_a_value_error_that_shows_it(changes, message):
    with pytest.raises(ValueError, match=message):
        spec_from_json(changed(**changes))


def test_an_incomplete_description_of_a_spec_is_refused():
    described = changed()
    del described["leaves"][0]["low"]
    with pytest.raises(ValueError, match="incomplete or wrong: 'low'"):
        spec_from_json(described)
    with pytest.raises(ValueError, match="list of 'leaves'"):
        spec_from_json({"leafs": []})
    with pytest.raises(ValueError, match="list of 'leaves'"):
        spec_from_json([])
    with pytest.raises(ValueError, match="spec leaf 0 is incomplete or wrong"):
        spec_from_json({"leaves": ["x"]})
