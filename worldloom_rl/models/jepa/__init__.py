"""JEPA world models after LeWM; importing this module registers the families "jepa" and "frozen_jepa"."""

from worldloom_rl.models.jepa.config import JEPAConfig as JEPAConfig
from worldloom_rl.models.jepa.frozen import FrozenJEPA as FrozenJEPA
from worldloom_rl.models.jepa.frozen_config import FrozenJEPAConfig as FrozenJEPAConfig
from worldloom_rl.models.jepa.model import JEPA as JEPA
from worldloom_rl.models.jepa.planning import make_planner as make_planner
from worldloom_rl.models.jepa.planning import make_policy as make_policy
