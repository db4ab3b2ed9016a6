"""The one comparison of a file's tensors with those that a model needs."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.pretrained.tensors import TensorKind, check_tensors, mismatches

NEEDED = {"a": TensorKind((2, 3), "F32"), "b": TensorKind((4,), "F32"), "c": TensorKind((1,))}


def test_what_is_as_needed_is_no_mismatch():
    found = {"c": TensorKind((1,), "I64"), "b": TensorKind((4,), "F32"), "a": TensorKind((2, 3), "F32")}
    assert mismatches(found, NEEDED) == []


def test_all_that_is_missing_extra_or_other_is_told_in_this_order():
    found = {"b": TensorKind((4,), "F64"), "d": TensorKind((5,), "F32"), "c": TensorKind((2,), "F32")}
    assert [each.told() for each in mismatches(found, NEEDED)] == [
        "lacks 'a' of shape (2, 3)",
        "has the extra tensor 'd' of shape (5,)",
        "has 'b' of type F64 where F32 is needed",
        "has 'c' of shape (2,) where (1,) is needed",
    ]
    assert mismatches(found, NEEDED)[1].told("array") == "has the extra array 'd' of shape (5,)"


def test_a_model_names_the_first_and_the_closest_of_its_names():
    expected = {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}
    found = {"head.weight": TensorKind((2, 3), "F32"), "head.bias": TensorKind((2,), "F32")}
    check_tensors(found, expected, "the file")
    with pytest.raises(ValueError, match=r"the file lacks the tensor 'head.bias' of shape \(2,\)"):
        check_tensors({"head.weight": TensorKind((2, 3), "F32")}, expected, "the file")
    with pytest.raises(ValueError, match=r"extra tensor 'head.weigth' of shape \(1,\). Did you mean 'head.weight'"):
        check_tensors({**found, "head.weigth": TensorKind((1,), "F32")}, expected, "the file")
    with pytest.raises(ValueError, match=r"'head.bias' is \(\(2,\), 'F16'\), but the model needs \(\(2,\), 'F32'\)"):
        check_tensors({**found, "head.bias": TensorKind((2,), "F16")}, expected, "the file")
