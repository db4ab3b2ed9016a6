"""Losses without weights of their own, written against the WorldModel verbs."""

from worldloom_rl.objectives.world_model_loss import WorldModelLoss as WorldModelLoss
