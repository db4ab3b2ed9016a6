"""DreamerV3 (Hafner et al. 2023, arXiv:2301.04104); importing this module registers the family "dreamerv3"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.dreamerv3.config import PRESETS
from worldloom_rl.models.dreamerv3.config import DreamerV3Config as DreamerV3Config
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.dreamerv3.model import DreamerV3 as DreamerV3
    from worldloom_rl.models.dreamerv3.policy import make_planner as make_planner
    from worldloom_rl.models.dreamerv3.policy import make_policy as make_policy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["DreamerV3Config"],
            ".model": ["DreamerV3"],
            ".policy": ["make_planner", "make_policy"],
        },
    )

register_family("dreamerv3", DreamerV3Config, PRESETS, "worldloom_rl.models.dreamerv3.model:DreamerV3")
