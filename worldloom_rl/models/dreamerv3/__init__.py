"""DreamerV3 (Hafner et al. 2023, arXiv:2301.04104); importing this module registers the family "dreamerv3"."""

from worldloom_rl.models.dreamerv3.config import DreamerV3Config as DreamerV3Config
from worldloom_rl.models.dreamerv3.model import DreamerV3 as DreamerV3
from worldloom_rl.models.dreamerv3.policy import make_planner as make_planner
from worldloom_rl.models.dreamerv3.policy import make_policy as make_policy
