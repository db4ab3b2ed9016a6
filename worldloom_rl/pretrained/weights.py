"""Weights from one model to another of the same sizes."""

from __future__ import annotations

from torch import nn


def copy_weights(old: nn.Module, new: nn.Module, but: str | None = None) -> None:
    """Gives the new model the old one's weights. Raises ValueError, naming some, if they have other shapes.

    Args:
        but: the name of a weight that is left as it is.
    """
    before = {name: value for name, value in old.state_dict().items() if name != but}
    now = {name: value for name, value in new.state_dict().items() if name != but}
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (before, now)]
    differ = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
    if differ:
        raise ValueError(
            f"The weights {differ[:3]} would have other sizes than the model's: fine-tuning keeps its numbers of "
            "layers, units and bins. Leave such overrides out."
        )
    new.load_state_dict(before, strict=False)
