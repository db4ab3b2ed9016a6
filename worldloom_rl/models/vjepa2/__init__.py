"""V-JEPA 2 and its action-conditioned world model (Assran et al. 2025, arXiv:2506.09985)."""

from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder as VJEPA2Encoder
from worldloom_rl.models.vjepa2.pose import next_pose as next_pose
from worldloom_rl.models.vjepa2.pose import pose_difference as pose_difference
from worldloom_rl.models.vjepa2.predictor import VJEPA2ACPredictor as VJEPA2ACPredictor
