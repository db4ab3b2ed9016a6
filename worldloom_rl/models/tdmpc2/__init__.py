"""TD-MPC2 (Hansen et al. 2024, arXiv:2310.16828); importing this module registers the family "tdmpc2"."""

from worldloom_rl.models.tdmpc2.behavior import PolicyLoss as PolicyLoss
from worldloom_rl.models.tdmpc2.behavior import PolicyPrior as PolicyPrior
from worldloom_rl.models.tdmpc2.behavior import make_planner as make_planner
from worldloom_rl.models.tdmpc2.config import TDMPC2Config as TDMPC2Config
from worldloom_rl.models.tdmpc2.model import TDMPC2 as TDMPC2
