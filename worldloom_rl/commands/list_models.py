"""`worldloom list`: the world models known by name."""

from __future__ import annotations

from typing import Annotated

import tyro


def list_models(pattern: Annotated[str, tyro.conf.Positional] = "*") -> None:
    """Print the world models known by name, such as tdmpc2:5m.

    Args:
        pattern: of a shell, such as "tdmpc2:*".
    """
    from worldloom_rl.pretrained.registry import list_world_models

    print("\n".join(list_world_models(pattern)))
