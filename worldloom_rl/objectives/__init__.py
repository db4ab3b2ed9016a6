"""Losses without weights of their own, written against the WorldModel verbs."""

from worldloom_rl.objectives.actor_critic import ActorPolicy as ActorPolicy
from worldloom_rl.objectives.actor_critic import ImaginedActorCriticLoss as ImaginedActorCriticLoss
from worldloom_rl.objectives.actor_critic import ReplayValueLoss as ReplayValueLoss
from worldloom_rl.objectives.disagreement import DisagreementLoss as DisagreementLoss
from worldloom_rl.objectives.disagreement import LatentEnsemble as LatentEnsemble
from worldloom_rl.objectives.disagreement import weighed_disagreement as weighed_disagreement
from worldloom_rl.objectives.world_model_loss import WorldModelLoss as WorldModelLoss
