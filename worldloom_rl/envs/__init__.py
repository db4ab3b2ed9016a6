from worldloom_rl.envs.imagination import ImaginationEnv as ImaginationEnv
from worldloom_rl.envs.real import episode_length as episode_length
from worldloom_rl.envs.real import make_env as make_env
