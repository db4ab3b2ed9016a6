"""A plain pre-norm transformer for sequences of frames, each of several tokens, which see their frame and the past."""

from __future__ import annotations

from torch import Tensor, nn

from worldloom_rl.nn.transformer import TransformerBlock, frame_causal_mask


def stretch_causal_mask(stretch: Tensor, tokens: int) -> Tensor:
    """[..., T · S, T · S] bool, True where a query (row) sees a key (column): those of its own and of earlier frames.

    Args:
        stretch: [..., T] int64, a number for each frame's stretch; frames of different stretches don't see each other.
        tokens: S tokens stand side by side in each frame.
    """
    same = stretch.unsqueeze(-1) == stretch.unsqueeze(-2)
    same = same.repeat_interleave(tokens, -1).repeat_interleave(tokens, -2)
    return frame_causal_mask(stretch.shape[-1], tokens, stretch) & same


class CausalTransformer(nn.Module):
    """[B, L, W] → [B, L, W]: pre-norm blocks, and a norm after the last. What a position sees is told by a mask.

    Args:
        width: W.
        layers: blocks.
        heads: of attention; must divide W.
        expansion: hidden width of the blocks' perceptrons over W.
    Reference: Vaswani et al. 2017 (arXiv:1706.03762), with the norms before the layers as in GPT-2.
    """

    def __init__(self, width: int, layers: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"The number of heads {heads} must divide the transformer's width {width}.")
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, expansion * width, eps=1e-5) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The outputs.

        Args:
            mask: bool [L, L] or [B, 1, L, L], True where a query (row) sees a key (column).
        """
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]
