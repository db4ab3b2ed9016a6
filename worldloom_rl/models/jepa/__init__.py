"""JEPA world models after LeWM; importing this module registers the family "jepa"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.jepa.config import PRESETS
from worldloom_rl.models.jepa.config import JEPAConfig as JEPAConfig
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.jepa.model import JEPA as JEPA
    from worldloom_rl.models.jepa.policy import make_planner as make_planner
    from worldloom_rl.models.jepa.policy import make_policy as make_policy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["JEPAConfig"],
            ".model": ["JEPA"],
            ".policy": ["make_planner", "make_policy"],
        },
    )

register_family("jepa", JEPAConfig, PRESETS, "worldloom_rl.models.jepa.model:JEPA")
