"""Data: rows that a collector brings, rows that somebody recorded, and what keeps and draws them.

arrivals            a collector's transitions as rows
replay              the ring that keeps rows and draws windows: ring, laws, window_sampler, dense_set
saved_rows, journal a replay as files
episodes            recorded episodes of any origin; windows draws batches from them, joined makes several one
open_episodes       recorded data by name:
    tdmpc2_chunks, newt_files        files of TD-MPC2 and its successor, mapped
    run_episodes                     the replay of one of our own runs, mapped
    hdf5_recording, minari_recording, lerobot_recording      read by excerpts (recording)
"""

from worldloom_rl.data.arrivals import Arrivals as Arrivals
from worldloom_rl.data.arrivals import Arrived as Arrived
from worldloom_rl.data.episodes import Episodes as Episodes
from worldloom_rl.data.joined import join as join
from worldloom_rl.data.opening import open_episodes as open_episodes
from worldloom_rl.data.recording import Recording as Recording
from worldloom_rl.data.replay import Replay as Replay
from worldloom_rl.data.windows import Windows as Windows
