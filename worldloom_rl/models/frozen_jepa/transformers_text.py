"""The JSON of a transformers configuration, which a saved model may bring: what it may say."""

from __future__ import annotations

import json
from collections.abc import Mapping

from worldloom_rl.config import Json

_LARGEST = 2**20  # number in a transformers configuration
_MOST_LAYERS = 512

# Kinds of transformers models that a file may name: plain vision transformers, which run no code but transformers' and
# fetch nothing.
KINDS = frozenset({
    "clip_vision_model", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa", "siglip_vision_model", "vit",
})  # fmt: skip


def read_transformers(text: str) -> dict[str, Json]:
    """The configuration's fields. Raises ValueError for what is none, or for numbers beyond all reason."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The field transformers must be the JSON of a configuration: {error}.") from error
    if not isinstance(values, Mapping) or not isinstance(values.get("model_type"), str):
        raise ValueError("The field transformers must be the JSON of a configuration with its 'model_type'.")
    if values["model_type"] not in KINDS or "auto_map" in values:
        raise ValueError(
            f"A frozen encoder of transformers is one of {sorted(KINDS)}, without an 'auto_map', which asks for "
            f"foreign code; got {values['model_type']!r}. Pass any other as a module of your own."
        )
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= (_MOST_LAYERS if "layers" in name else _LARGEST):
            raise ValueError(f"The transformers configuration has an absurd {name}, {value!r}.")
    return dict(values)
