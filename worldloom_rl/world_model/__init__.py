"""The contract: what a family writes, the verbs over tensordicts, imagination, and policies over the latent."""

from worldloom_rl.world_model.core import Latent as Latent
from worldloom_rl.world_model.core import Observation as Observation
from worldloom_rl.world_model.core import Prediction as Prediction
from worldloom_rl.world_model.core import RewardFunction as RewardFunction
from worldloom_rl.world_model.core import TensorCore as TensorCore
from worldloom_rl.world_model.core import repeat_latent as repeat_latent
from worldloom_rl.world_model.imagine import Act as Act
from worldloom_rl.world_model.imagine import Dream as Dream
from worldloom_rl.world_model.model import WorldModel as WorldModel
from worldloom_rl.world_model.policy import LatentPolicy as LatentPolicy
from worldloom_rl.world_model.verbs import Verb as Verb
