"""Real environments in one fixed form; importing registers "worldloom/Catch-v0", "worldloom/Door-v0",
"worldloom/PointRoom-v0" and "worldloom/Recall-v0"."""

from worldloom_rl.envs import catch as _catch  # noqa: F401
from worldloom_rl.envs import door as _door  # noqa: F401
from worldloom_rl.envs import point_room as _point_room  # noqa: F401
from worldloom_rl.envs import recall as _recall  # noqa: F401
from worldloom_rl.envs.real import episode_length as episode_length
from worldloom_rl.envs.real import make_env as make_env
