"""Data: transitions as arrivals, and the replay that keeps and samples them."""

from worldloom_rl.data.arrivals import Arrivals as Arrivals
from worldloom_rl.data.arrivals import Arrived as Arrived
from worldloom_rl.data.replay import Replay as Replay
