"""A JEPA over a frozen encoder, after DINO-WM; importing this module registers the family "frozen_jepa"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.frozen_jepa.config import PRESETS
from worldloom_rl.models.frozen_jepa.config import FrozenJEPAConfig as FrozenJEPAConfig
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.frozen_jepa.model import FrozenJEPA as FrozenJEPA
    from worldloom_rl.models.jepa.policy import make_planner as make_planner
    from worldloom_rl.models.jepa.policy import make_policy as make_policy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["FrozenJEPAConfig"],
            ".model": ["FrozenJEPA"],
            "..jepa.policy": ["make_planner", "make_policy"],
        },
    )

register_family("frozen_jepa", FrozenJEPAConfig, PRESETS, "worldloom_rl.models.frozen_jepa.model:FrozenJEPA")
