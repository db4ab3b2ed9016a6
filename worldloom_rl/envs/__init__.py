"""Real environments in one fixed form, and four small ones: "worldloom/Catch-v0", "worldloom/Door-v0",
"worldloom/PointRoom-v0" and "worldloom/Recall-v0"."""

from worldloom_rl.envs.real import episode_length as episode_length
from worldloom_rl.envs.real import make_env as make_env
