"""Planners over the latent of any world model, as TorchRL policies."""

from worldloom_rl.planners.cem import CEMPlanner as CEMPlanner
from worldloom_rl.planners.draws import Coloured as Coloured
from worldloom_rl.planners.gradient import GradientPlanner as GradientPlanner
from worldloom_rl.planners.icem import ICEMPlanner as ICEMPlanner
from worldloom_rl.planners.mppi import MPPIPlanner as MPPIPlanner
from worldloom_rl.planners.options import PlanOptions as PlanOptions
from worldloom_rl.planners.policy import Planner as Planner
from worldloom_rl.planners.predictive_sampling import PredictiveSamplingPlanner as PredictiveSamplingPlanner
from worldloom_rl.planners.random_shooting import RandomShootingPlanner as RandomShootingPlanner
from worldloom_rl.planners.termination import soft_continue as soft_continue
from worldloom_rl.planners.termination import sticky_cut as sticky_cut
