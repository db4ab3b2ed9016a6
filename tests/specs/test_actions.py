"""The flat view of action specs, against hand-written flat vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)

from worldloom_rl.specs.actions import ActionSpace


def space(**leaves: TensorSpec) -> ActionSpace:
    return ActionSpace(Composite(**leaves))


def box(low: list[float], high: list[float], dtype: torch.dtype = torch.float32) -> Bounded:
    return Bounded(torch.tensor(low, dtype=dtype), torch.tensor(high, dtype=dtype), shape=(len(low),), dtype=dtype)


def composite() -> ActionSpace:
    return ActionSpace(
        Composite(
            arm=Composite(torque=box([-2.0, 0.0], [2.0, 10.0]), grip=Categorical(3, shape=(), dtype=torch.int64)),
            gear=OneHot(2, dtype=torch.bool),
        )
    )


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_actions_between_minus_one_and_one_pass_bit_for_bit(values):
    unit = space(action=box([-1.0] * 3, [1.0] * 3))
    action = torch.tensor(values)
    assert torch.equal(unit.flatten({"action": action}), action)
    assert torch.equal(unit.unflatten(action)["action"], action)


def test_bounds_map_to_minus_one_and_one_and_their_middle_to_zero():
    wide = space(action=box([-2.0, 0.0, 5.0], [2.0, 10.0, 6.0]))
    actions = torch.tensor([[-2.0, 0.0, 5.0], [0.0, 5.0, 5.5], [2.0, 10.0, 6.0]])
    flat = wide.flatten({"action": actions})
    assert flat.tolist() == [[-1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert torch.equal(wide.unflatten(flat)["action"], actions)


def test_flat_actions_beyond_the_range_are_kept_inside_the_bounds():
    low, high = [-0.1, 3.3, -7.7], [0.2, 3.4, 100.1]
    spec = Composite(action=box(low, high))
    action = ActionSpace(spec).unflatten(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [5.0, -9.0, 2.0]]))[
        "action"
    ]
    assert action[2].tolist() == torch.tensor([0.2, 3.3, 100.1]).tolist()  # to the last bit
    assert all(spec["action"].is_in(row) for row in action)


def test_a_matrix_of_actions_with_one_bound_each_keeps_its_shape():
    matrix = space(action=Bounded(-1.0, 1.0, shape=(2, 3), dtype=torch.float32))
    action = torch.arange(6).reshape(2, 3) / 6
    assert matrix.width == 6
    assert torch.equal(matrix.flatten({"action": action}), torch.arange(6) / 6)
    assert torch.equal(matrix.unflatten(torch.arange(6) / 6)["action"], action)


def test_a_box_without_dimensions_is_one_number():
    single = space(action=Bounded(-4.0, 4.0, shape=(), dtype=torch.float32))
    assert single.flatten({"action": torch.tensor([2.0, -4.0])}).tolist() == [[0.5], [-1.0]]
    assert single.unflatten(torch.tensor([[0.5], [-1.0]]))["action"].tolist() == [2.0, -4.0]


def test_double_actions_come_back_as_double():
    double = space(action=box([-2.0], [2.0], torch.float64))
    assert double.flatten({"action": torch.tensor([1.0], dtype=torch.float64)}).dtype == torch.float32
    assert double.unflatten(torch.tensor([0.5]))["action"].dtype == torch.float64


@pytest.mark.parametrize(
    ("leaf", "value", "flat", "groups"),
    [
        (OneHot(3), [0, 1, 0], [0, 1, 0], [(0, 3)]),
        (OneHot(3, dtype=torch.bool), [False, False, True], [0, 0, 1], [(0, 3)]),
        (Categorical(3, shape=(), dtype=torch.int64), 2, [0, 0, 1], [(0, 3)]),
        (Categorical(3, shape=(1,), dtype=torch.int64), [2], [0, 0, 1], [(0, 3)]),
        (Categorical(3, shape=(2,), dtype=torch.int64), [2, 0], [0, 0, 1, 1, 0, 0], [(0, 3), (3, 6)]),
        (MultiCategorical([2, 3]), [1, 1], [0, 1, 0, 1, 0], [(0, 2), (2, 5)]),
        (MultiOneHot([2, 3]), [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [(0, 2), (2, 5)]),
        (Categorical(2, shape=(1, 2), dtype=torch.int32), [[1, 0]], [0, 1, 1, 0], [(0, 2), (2, 4)]),
        (Binary(2), [0, 1], [1, 0, 0, 1], [(0, 2), (2, 4)]),
    ],
    ids=[
        "one-hot",
        "one-hot bool",
        "categorical",
        "categorical[1]",
        "categorical[2]",
        "multi-categorical",
        "multi-one-hot",
        "matrix of categoricals",
        "binary",
    ],
)
def test_discrete_actions_become_one_hot_groups_and_come_back(leaf, value, flat, groups):
    discrete = space(action=leaf)
    action = torch.tensor(value, dtype=leaf.dtype)
    assert discrete.is_discrete
    assert not discrete.is_continuous
    assert discrete.groups == groups
    assert discrete.flatten({"action": action}).tolist() == flat
    back = discrete.unflatten(torch.tensor(flat, dtype=torch.float32))["action"]
    assert torch.equal(back, action)
    assert back.dtype == leaf.dtype
    assert leaf.is_in(back)


def test_composite_actions_stand_side_by_side_in_the_order_of_the_spec():
    mixed = composite()
    assert mixed.keys == (("arm", "torque"), ("arm", "grip"), "gear")
    assert mixed.width == 7
    assert mixed.groups == [(2, 5), (5, 7)]
    assert mixed.continuous.tolist() == [True, True, False, False, False, False, False]
    assert not mixed.is_discrete
    assert not mixed.is_continuous
    action = {
        ("arm", "torque"): torch.tensor([[1.0, 10.0]]),
        ("arm", "grip"): torch.tensor([1]),
        "gear": torch.tensor([[True, False]]),
    }
    flat = mixed.flatten(action)
    assert flat.tolist() == [[0.5, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    back = mixed.unflatten(flat)
    assert set(back) == set(action)
    assert all(torch.equal(back[key], action[key]) for key in action)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_random_actions_of_every_kind_survive_the_round_trip_in_any_batch(batch):
    spec = Composite(
        a=box([-3.0, 1.0], [3.0, 2.0]), b=Categorical(4, shape=(), dtype=torch.int64), c=OneHot(3),
        d=MultiCategorical([2, 5]), e=MultiOneHot([2, 2]),
        f=Composite(g=Bounded(0.0, 1.0, shape=(2, 2), dtype=torch.float32)),
    )  # fmt: skip
    torch.manual_seed(0)
    drawn = spec.expand(*batch).rand()
    every = ActionSpace(spec)
    flat = every.flatten({key: drawn[key] for key in every.keys})
    assert flat.shape == (*batch, every.width)
    for key, value in every.unflatten(flat).items():
        torch.testing.assert_close(value, drawn[key], rtol=0, atol=1e-6)
        assert value.shape == drawn[key].shape


def test_soft_one_hot_groups_of_integer_actions_take_the_largest_class():
    discrete = space(action=MultiCategorical([2, 3]))
    assert discrete.unflatten(torch.tensor([0.4, 0.6, 0.5, 0.3, 0.2]))["action"].tolist() == [1, 0]


def test_enumerate_lists_every_combination_with_the_last_group_fastest():
    discrete = space(action=MultiCategorical([2, 3]))
    assert discrete.combinations == 6
    actions = discrete.unflatten(discrete.enumerate())["action"]
    assert actions.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert space(action=OneHot(3)).enumerate().tolist() == torch.eye(3).tolist()


def test_a_space_with_real_numbers_has_no_combinations_to_enumerate():
    assert composite().combinations == 0
    with pytest.raises(ValueError, match="continuous dimensions"):
        composite().enumerate()


@pytest.mark.parametrize(
    "leaf",
    [
        Unbounded((2,)),
        Bounded(0, 10, shape=(2,), dtype=torch.int64),
        Bounded(torch.tensor([-1.0, -torch.inf]), torch.tensor([1.0, torch.inf]), shape=(2,), dtype=torch.float32),
        Bounded(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), shape=(2,), dtype=torch.float32),
    ],
    ids=["unbounded", "integer box", "half infinite", "empty range"],
)
def test_an_action_without_finite_bounds_is_refused_with_its_key_and_a_remedy(leaf):
    with pytest.raises(ValueError, match=r"(?s)\('arm', 'torque'\).*finite bounds.*RescaleAction") as caught:
        ActionSpace(Composite(arm=Composite(torque=leaf)))
    assert "low < high" in str(caught.value)


def test_a_bare_leaf_or_an_empty_spec_is_refused():
    with pytest.raises(TypeError, match="must be a Composite with its keys, got OneHot"):
        ActionSpace(OneHot(3))
    with pytest.raises(ValueError, match="at least one action key"):
        ActionSpace(Composite())


def test_a_one_hot_of_two_dimensions_is_several_choices_of_equal_size():
    """TorchRL makes it of gymnasium's MultiDiscrete([3, 3])."""
    choices = space(action=OneHot(3, shape=(2, 3)))
    action = torch.eye(3, dtype=torch.int64)[torch.tensor([[2, 0], [1, 1]])]  # [2 rows, 2 choices, 3]
    flat = choices.flatten({"action": action})
    assert choices.groups == [(0, 3), (3, 6)]
    assert flat.tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]]
    assert torch.equal(choices.unflatten(flat)["action"], action)


def test_an_absurdly_wide_action_is_refused_by_key():
    with pytest.raises(ValueError, match=r"'action' has the absurd shape \(1048576,\)"):
        space(action=Bounded(-1.0, 1.0, shape=(2**20,), dtype=torch.float32))
