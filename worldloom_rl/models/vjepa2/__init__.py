"""V-JEPA 2-AC (Assran et al. 2025, arXiv:2506.09985); importing this module registers the family "vjepa2"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.vjepa2.config import PRESETS
from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig as VJEPA2ACConfig
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder as VJEPA2Encoder
    from worldloom_rl.models.vjepa2.model import VJEPA2AC as VJEPA2AC
    from worldloom_rl.models.vjepa2.policy import make_planner as make_planner
    from worldloom_rl.models.vjepa2.policy import make_policy as make_policy
    from worldloom_rl.models.vjepa2.pose import next_pose as next_pose
    from worldloom_rl.models.vjepa2.pose import pose_difference as pose_difference
    from worldloom_rl.models.vjepa2.predictor import VJEPA2ACPredictor as VJEPA2ACPredictor
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["VJEPA2ACConfig"],
            ".encoder": ["VJEPA2Encoder"],
            ".model": ["VJEPA2AC"],
            ".policy": ["make_planner", "make_policy"],
            ".pose": ["next_pose", "pose_difference"],
            ".predictor": ["VJEPA2ACPredictor"],
        },
    )

register_family("vjepa2", VJEPA2ACConfig, PRESETS, "worldloom_rl.models.vjepa2.model:VJEPA2AC")
