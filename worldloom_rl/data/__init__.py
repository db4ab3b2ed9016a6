"""Data: transitions and recorded episodes as arrivals, and the replay that keeps and samples them."""

from worldloom_rl.data.arrivals import Arrivals as Arrivals
from worldloom_rl.data.arrivals import Arrived as Arrived
from worldloom_rl.data.offline import open_recording as open_recording
from worldloom_rl.data.recording import Recording as Recording
from worldloom_rl.data.replay import Replay as Replay
