"""The causal transformer: what a position sees, and the block's formula."""

from __future__ import annotations

import math

import pytest
import torch

from worldloom_rl.models.tokens.causal_transformer import CausalTransformer, stretch_causal_mask
from worldloom_rl.nn.transformer import TransformerBlock


def test_a_frame_sees_itself_and_earlier_frames_of_its_stretch() -> None:
    mask = stretch_causal_mask(torch.tensor([0, 0, 3]), 2)
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 1],
            [0, 0, 0, 0, 1, 1],
        ]
    )
    assert torch.equal(mask, expected.bool())
    batched = stretch_causal_mask(torch.tensor([[0, 0, 3], [0, 0, 0]]), 2)
    assert torch.equal(batched[0], mask)
    assert torch.equal(batched[1], stretch_causal_mask(torch.zeros(3, dtype=torch.int64), 2))


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_changed_frame_changes_itself_and_later_ones_only(frame: int) -> None:
    torch.manual_seed(0)
    model = CausalTransformer(16, layers=3, heads=4)
    mask = stretch_causal_mask(torch.zeros(3, dtype=torch.int64), 4)
    x = torch.randn(2, 12, 16)
    other = x.clone()
    other[:, 4 * frame + 1] += torch.randn(16)
    before, after = model(x, mask).unflatten(1, (3, 4)), model(other, mask).unflatten(1, (3, 4))
    assert torch.equal(before[:, :frame], after[:, :frame])
    assert ((before - after).abs().amax((0, 3)) > 1e-4)[frame:].all()  # every position of those


def test_the_first_frames_alone_give_what_they_give_among_more() -> None:
    torch.manual_seed(0)
    model = CausalTransformer(16, layers=2, heads=2)
    x = torch.randn(2, 12, 16)
    whole = model(x, stretch_causal_mask(torch.zeros(3, dtype=torch.int64), 4))
    part = model(x[:, :8], stretch_causal_mask(torch.zeros(2, dtype=torch.int64), 4))
    torch.testing.assert_close(whole[:, :8], part, rtol=1e-5, atol=1e-5)


def test_a_block_is_attention_and_a_perceptron_each_behind_a_norm_and_beside_a_shortcut() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(6, heads=2, hidden=8, eps=1e-5)
    x, mask = torch.randn(1, 4, 6), stretch_causal_mask(torch.zeros(2, dtype=torch.int64), 2)
    normed = torch.nn.functional.layer_norm(x[0], (6,))
    query, key, value = block.attention.query_key_value(normed).split(6, -1)
    attended = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = query[:, head] @ key[:, head].T / math.sqrt(3)
        attended.append(scores.masked_fill(~mask, -math.inf).softmax(-1) @ value[:, head])
    y = x[0] + block.attention.output(torch.cat(attended, -1))
    y = y + block.feed_forward(torch.nn.functional.layer_norm(y, (6,)))
    torch.testing.assert_close(block(x, mask)[0], y, rtol=1e-5, atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="heads 3 must divide the transformer's width 16"):
        CausalTransformer(16, layers=1, heads=3)
