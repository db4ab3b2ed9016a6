"""Rate and F1 against hand-counted tables."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.functional.classification import rate_and_f1


@pytest.mark.parametrize(
    ("probability", "target", "rate", "f1"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.5, 1.0),
        ([0.9, 0.1, 0.6, 0.1], [1, 1, 0, 0], 0.5, 0.5),  # one hit, one miss, one false alarm
        ([0.9, 0.9, 0.9, 0.4], [1, 0, 0, 0], 0.25, 0.5),  # precision 1/3, recall 1
        ([0.1, 0.1], [1, 1], 1.0, 0.0),
        ([0.1, 0.5], [0, 0], 0.0, 0.0),  # even odds predict nothing
    ],
)
def test_rate_and_f1_match_the_hand_counted_table(probability, target, rate, f1):
    got = rate_and_f1(torch.tensor(probability), torch.tensor(target).float())
    assert [number.item() for number in got] == pytest.approx([rate, f1], abs=1e-6)


def test_rate_and_f1_refuse_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"equal shapes, got \(4, 1\) and \(4,\)"):
        rate_and_f1(torch.zeros(4, 1), torch.zeros(4))
