"""Transformer parts: what a token may see, and where dropout draws come from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldloom_rl import GeneratorNoise, ModeNoise, ReplayNoise
from worldloom_rl.nn.transformer import (
    Attention,
    TransformerBlock,
    causal_mask,
    dropout,
    frame_causal_mask,
    keep_all,
)


def test_a_token_sees_its_frame_and_those_before() -> None:
    assert causal_mask(3, torch.zeros(())).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    frames = frame_causal_mask(2, 2, torch.zeros(()))
    assert frames.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("heads_wide", [None, 3])
def test_attention_equals_torch_s(heads_wide: int | None) -> None:
    torch.manual_seed(0)
    ours = Attention(8, 2, heads_wide)
    x, mask = torch.randn(5, 6, 8), causal_mask(6, torch.zeros(()))
    query, key, value = ours.query_key_value(x).chunk(3, -1)
    width = query.shape[-1]
    theirs = nn.MultiheadAttention(width, 2, batch_first=True)
    with torch.no_grad():
        identity = torch.eye(width)
        theirs.in_proj_weight.copy_(torch.cat([identity] * 3))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(identity)
        theirs.out_proj.bias.zero_()
    mixed, _ = theirs(query, key, value, attn_mask=~mask)
    torch.testing.assert_close(ours(x, mask), ours.output(mixed), rtol=1e-5, atol=1e-6)


def test_dropout_of_rate_zero_changes_no_attention_and_its_draws_come_from_the_noise() -> None:
    torch.manual_seed(0)
    block, x, mask = TransformerBlock(8, 2, 16), torch.randn(3, 6, 8), causal_mask(6, torch.zeros(()))
    assert dropout(GeneratorNoise(), 0.0) is keep_all
    # A noise that keeps all entries goes the way of dropout: explicit attention, divided by what is kept.
    kept = block(x, mask, lambda part: 0.5 * dropout(ModeNoise(), 0.5)(part))
    torch.testing.assert_close(kept, block(x, mask), rtol=1e-5, atol=1e-6)
    generator = torch.Generator().manual_seed(1)
    first = block(x, mask, dropout(GeneratorNoise(generator), 0.5))
    torch.rand(1)
    again = block(x, mask, dropout(GeneratorNoise(generator.manual_seed(1)), 0.5))
    assert torch.equal(first, again)
    assert not torch.allclose(first, block(x, mask))


def test_dropout_zeroes_what_is_drawn_and_scales_the_rest() -> None:
    noise = ReplayNoise({"dropout": [torch.tensor([1.0, 0.0, 1.0, 1.0])]})
    assert dropout(noise, 0.2)(torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [1.25, 0.0, 5.0, 10.0]


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="8 cannot be shared by 3 heads"):
        Attention(8, 3)
