"""A JEPA over a frozen encoder, after DINO-WM; importing this module registers the family "frozen_jepa"."""

from worldloom_rl.models.frozen_jepa.config import FrozenJEPAConfig as FrozenJEPAConfig
from worldloom_rl.models.frozen_jepa.model import FrozenJEPA as FrozenJEPA
from worldloom_rl.models.jepa.policy import make_planner as make_planner
from worldloom_rl.models.jepa.policy import make_policy as make_policy
