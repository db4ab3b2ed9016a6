"""TD-MPC2 (Hansen et al. 2024, arXiv:2310.16828); importing this module registers the family "tdmpc2"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.tdmpc2.config import PRESETS
from worldloom_rl.models.tdmpc2.config import TDMPC2Config as TDMPC2Config
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.tdmpc2.behavior import PolicyLoss as PolicyLoss
    from worldloom_rl.models.tdmpc2.model import TDMPC2 as TDMPC2
    from worldloom_rl.models.tdmpc2.policy import PolicyPrior as PolicyPrior
    from worldloom_rl.models.tdmpc2.policy import make_planner as make_planner
    from worldloom_rl.models.tdmpc2.policy import make_policy as make_policy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["TDMPC2Config"],
            ".model": ["TDMPC2"],
            ".policy": ["PolicyPrior", "make_planner", "make_policy"],
            ".behavior": ["PolicyLoss"],
        },
    )

register_family("tdmpc2", TDMPC2Config, PRESETS, "worldloom_rl.models.tdmpc2.model:TDMPC2")
