"""The contract kit for world models of any package."""

from worldloom_rl.testing.contract import check_world_model as check_world_model
