"""JEPA world models after LeWM; importing this module registers the family "jepa"."""

from worldloom_rl.models.jepa.config import JEPAConfig as JEPAConfig
from worldloom_rl.models.jepa.model import JEPA as JEPA
from worldloom_rl.models.jepa.policy import make_planner as make_planner
from worldloom_rl.models.jepa.policy import make_policy as make_policy
