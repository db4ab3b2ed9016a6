"""The ring against a plain list: which windows can be drawn, how often, and what they hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.envs import ExcludeTransform

from worldloom_rl.data import Arrived, Replay
from worldloom_rl.keys import GENERATION, INDEX, STREAM

torch.set_num_threads(1)
LATENT = ("latent", "deterministic")


@st.composite
def event_lists(draw):
    """Up to 160 events of three streams; hypothesis's own lists stay too short to go round the ring."""
    chance = Random(draw(st.integers(0, 2**32)))
    events, stream = [], 0
    stay, ends = draw(st.sampled_from([0.3, 0.7, 0.95])), draw(st.sampled_from([0.05, 0.25]))
    for _ in range(draw(st.integers(0, 160))):
        stream = stream if chance.random() < stay else chance.randrange(3)
        events.append((stream, "step" if chance.random() > ends else chance.choice(["end", "cut"])))
    return events


class History:
    """The oracle: every row ever written, in a list. A row is (stream, episode, is_init, done)."""

    def __init__(self, events=()):
        self.rows: list[tuple[int, int, bool, bool]] = []
        self.episode: dict[int, int] = {}  # of a stream, the open one
        self.complete: set[int] = set()
        self.begun = 0
        for stream, event in events:
            self.write(stream, event)

    def write(self, stream, event="step"):
        init = event == "cut" or stream not in self.episode
        if init:
            self.complete |= {self.episode[stream]} if stream in self.episode else set()
            self.episode[stream] = self.begun
            self.begun += 1
        episode, done = self.episode[stream], event == "end" and not init
        self.rows.append((stream, episode, init, done))
        if done:
            self.complete.add(self.episode.pop(stream))

    def tensors(self, first, stop):
        number = torch.arange(first, stop)
        flags = torch.tensor([row[2:] for row in self.rows[first:stop]]).reshape(-1, 2, 1)
        entries = {
            "observation": number.float().unsqueeze(-1),
            "frame": number.to(torch.uint8).reshape(-1, 1, 1, 1),
            STREAM: torch.tensor([row[0] for row in self.rows[first:stop]]),
            "is_init": flags[:, 0],
            "terminated": flags[:, 1],
            "truncated": torch.zeros_like(flags[:, 1]),
            "latent": TensorDict({"deterministic": torch.zeros(stop - first, 2)}, batch_size=[stop - first]),
        }
        return TensorDict(entries, batch_size=[stop - first])

    def windows(self, capacity, length, by, reach=0, until=None):
        """{rows of a window: the probability of drawing it}."""
        rows = self.rows[:until]
        oldest = max(0, len(rows) - capacity)
        streams, episodes = defaultdict(list), defaultdict(list)
        for number, (stream, episode, _, _) in enumerate(rows):
            streams[stream].append(number)
            episodes[episode].append(number)
        found = defaultdict(list)
        for stream in streams.values():
            for place in range(len(stream) - length + 1):
                window, episode = tuple(stream[place : place + length]), rows[stream[place]][1]
                earlier = [row for row in episodes[episode] if row < window[0]]
                if min(window + tuple(earlier[len(earlier) - min(reach, len(earlier)) :])) < oldest:
                    continue
                within = rows[window[-1]][1] == episode
                if by == "window" or (by == "within" and within):
                    found[0].append(window)
                elif by == "episode" and within and episode in self.complete:
                    found[episode].append(window)
        return {window: 1 / len(found) / len(group) for group in found.values() for window in group}


def fill(replay, history, sizes=(7,), first=0):
    """Extends by contributions of the given sizes in turn."""
    turn = 0
    while first < len(history.rows):
        stop = min(first + min(sizes[turn % len(sizes)], replay._ring.capacity), len(history.rows))
        replay.extend(history.tensors(first, stop))
        first, turn = stop, turn + 1


def drawn(replay, number):
    batch = replay.sample(number)
    return Counter(map(tuple, batch["observation"].squeeze(-1).int().tolist()))


def build(capacity, window, by, **options):
    generator = torch.Generator().manual_seed(0)
    return Replay(capacity=capacity, window=window, batch_size=4, by=by, generator=generator, **options)


@settings(max_examples=150, deadline=None)
@given(
    event_lists(),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(6, 40),
    st.integers(1, 5),
    st.sampled_from(["episode", "window", "within"]),
    st.sampled_from([1, 1, 2, 3]),
)
def test_exactly_the_windows_of_the_list_are_drawn(events, sizes, capacity, length, by, frames):
    history = History(events)
    replay = build(capacity, length, by, frame_stack={"frame": frames})
    fill(replay, history, sizes)
    expected = history.windows(capacity, length, by, reach=frames - 1)
    if not expected:
        with pytest.raises(RuntimeError, match="no window of"):
            replay.sample()
        return
    number = int(40 / min(expected.values()))  # a window is missed with probability e^-40
    assert drawn(replay, number).keys() == expected.keys()


@settings(max_examples=60, deadline=None)
@given(event_lists(), st.integers(6, 40), st.integers(1, 4), st.integers(1, 4))
def test_stacked_frames_are_those_of_the_list(events, capacity, length, frames):
    history = History(events)
    replay = build(capacity, length, "window", frame_stack={"frame": frames})
    fill(replay, history)
    if not history.windows(capacity, length, "window", reach=frames - 1):
        return
    episodes = defaultdict(list)
    for number, row in enumerate(history.rows):
        episodes[row[1]].append(number)
    for row in replay.sample(32).reshape(-1):
        number = int(row["observation"])
        before = [one for one in episodes[history.rows[number][1]] if one <= number]
        expected = ([before[0]] * frames + before)[-frames:]
        assert row["frame"].flatten().tolist() == expected


def test_the_episode_law_draws_an_episode_uniformly_and_then_a_start_uniformly():
    history = History([(0, "step")] * 9 + [(0, "end")] + [(1, "step")] * 3 + [(1, "end")] + [(2, "step")] * 30)
    replay = build(60, 3, "episode")
    fill(replay, history)
    expected, number = history.windows(60, 3, "episode"), 40_000
    assert sorted(set(expected.values())) == [1 / 16, 1 / 4]  # 8 starts of one episode, 2 of the other
    counts = drawn(replay, number)
    statistic = sum((counts[key] - number * p) ** 2 / (number * p) for key, p in expected.items())
    assert statistic < 27.9  # chi-square with 9 degrees of freedom, p = 0.001; the draw is seeded


@pytest.mark.parametrize("by", ["window", "within"])
def test_the_law_is_uniform_over_windows(by):
    history = History([(0, "step")] * 9 + [(0, "end")] + [(1, "step"), (2, "step"), (0, "step")] * 10)
    replay = build(35, 4, by)
    fill(replay, history)
    expected, number = history.windows(35, 4, by), 40_000
    counts = drawn(replay, number)
    statistic = sum((counts[key] - number * p) ** 2 / (number * p) for key, p in expected.items())
    assert statistic < 2.5 * len(expected) + 10  # far beyond p = 0.001


def test_the_online_law_draws_each_new_stretch_of_a_stream_once_and_then_uniformly():
    replay, history = build(100, 4, "online"), History([(row % 2, "step") for row in range(30)])
    fill(replay, history)
    rows = replay.sample(6)["observation"].squeeze(-1).int().tolist()
    assert sorted(rows) == sorted([[first + 8 * k + 2 * i for i in range(4)] for first in (0, 1) for k in range(3)])
    counts = Counter(tuple(window) for window in replay.sample(4000)["observation"].squeeze(-1).int().tolist())
    assert len(counts) == 2 * (15 - 4 + 1)
    assert max(counts.values()) < 2 * min(counts.values())


def test_the_online_law_forgets_stretches_that_were_overwritten():
    replay, history = build(8, 4, "online"), History([(0, "step")] * 40)
    fill(replay, history, sizes=(3,))
    assert int(replay.sample(8)["observation"].min()) >= 40 - 8


def test_a_partly_overwritten_episode_is_drawn_by_its_remaining_rows():
    history = History([(0, "step")] * 9 + [(0, "end")] + [(1, "step")] * 5)
    replay = build(11, 3, "episode")
    fill(replay, history)  # 15 rows: the first 4 are gone
    assert drawn(replay, 500).keys() == {(4, 5, 6), (5, 6, 7), (6, 7, 8), (7, 8, 9)}
    assert replay.episodes == 1


def test_an_episode_cut_by_a_reset_is_marked_truncated_and_drawn():
    history = History([(0, "step")] * 4 + [(0, "cut")])
    replay = build(20, 4, "episode")
    fill(replay, history, (4,))
    batch = replay.sample()
    assert batch["truncated"].squeeze(-1).tolist() == [[False, False, False, True]] * 4
    assert replay.episodes == 1


def test_running_episodes_are_left_out_by_the_episode_law_and_kept_by_the_window_law():
    for by, count in (("episode", 0), ("window", 3)):
        replay = build(20, 3, by)
        fill(replay, History([(0, "step")] * 5))
        assert replay.sampler._sampleable_count(replay.storage, 4) == count
        assert replay.can_sample() == bool(count)


def test_samples_hold_every_key_of_the_rows_in_order_of_time():
    replay = build(20, 3, "window")
    fill(replay, History([(0, "step"), (1, "step")] * 6))
    batch = replay.sample()
    assert batch.batch_size == (4, 3)
    keys = {"observation", "frame", "is_init", "terminated", "truncated", LATENT, INDEX, GENERATION}
    assert set(batch.keys(True, True)) == keys
    assert (batch["observation"][:, 1:] - batch["observation"][:, :-1] == 2).all()
    assert replay.sample(7).batch_size == (7, 3)


def test_equal_generators_draw_equal_batches_and_the_global_generator_is_left_alone():
    replays = [build(20, 3, "episode") for _ in range(2)]
    for replay in replays:
        fill(replay, History([(0, "step")] * 9 + [(0, "end")]))
    before = torch.random.get_rng_state()
    first, second = (replay.sample() for replay in replays)
    assert (first == second).all()
    assert torch.equal(before, torch.random.get_rng_state())


def test_memory_mapped_rows_are_drawn_like_rows_in_memory(tmp_path):
    history = History([(0, "step"), (1, "step"), (0, "end"), (1, "step")] * 10)
    batches = []
    for directory in (None, tmp_path / "rows"):
        replay = build(30, 3, "window", memmap_dir=directory)
        fill(replay, history)
        batch = replay.sample(16)
        replay.write_back(batch.select("replay", "latent").apply(lambda x: x))
        batches.append(replay.sample(16))
    assert (batches[0] == batches[1]).all()
    assert (tmp_path / "rows").exists()


def test_extend_leaves_the_given_rows_as_they_were_and_returns_their_slots():
    rows = History([(0, "step")] * 5).tensors(0, 5)
    keys = set(rows.keys(True, True))
    replay = build(4 + 4, 2, "window")
    replay.extend(rows)
    index = replay.extend(History([(1, "step")] * 5).tensors(0, 5))
    assert index.tolist() == [5, 6, 7, 0, 1]
    assert set(rows.keys(True, True)) == keys
    assert len(replay) == 8


def test_write_back_replaces_live_rows_skips_recycled_ones_and_the_last_of_duplicates_wins():
    replay = build(10, 2, "window")
    fill(replay, History([(0, "step")] * 10), (10,))
    batch = replay.sample(32)
    batch[LATENT] = torch.arange(64.0).reshape(32, 2, 1).expand(32, 2, 2)
    replay.extend(History([(1, "step")] * 3).tensors(0, 3))  # recycles rows 0, 1, 2
    chosen = batch.select("replay", "latent")
    assert replay.write_back(chosen) == 7
    last = {int(row["observation"]): value for value, row in enumerate(batch.reshape(-1))}
    stored = replay._leaves["latent", "deterministic"][:, 0]
    assert stored[3:].tolist() == [last[row] for row in range(3, 10)]
    assert stored[:3].tolist() == [0, 0, 0]


def test_write_back_casts_to_the_stored_dtype_and_refuses_unknown_keys():
    replay = build(10, 2, "window")
    fill(replay, History([(0, "step")] * 5))
    batch = replay.sample().select("replay", "latent")
    assert replay.write_back(batch.apply(lambda value: value.bfloat16() if value.is_floating_point() else value)) > 0
    batch["value"] = batch["latent", "deterministic"]
    with pytest.raises(KeyError, match="value"):
        replay.write_back(batch)


def test_a_late_latent_goes_to_the_last_row_of_its_stream_and_never_to_a_recycled_one():
    replay = build(6, 2, "window")
    fill(replay, History([(0, "step"), (1, "step"), (1, "step")]))
    late = TensorDict({STREAM: torch.tensor([0, 1, 5]), LATENT: torch.tensor([[1.0] * 2, [2.0] * 2, [9.0] * 2])}, [3])
    history = History([(1, "step")] * 6)
    replay.extend(Arrived(history.tensors(1, 5), late))
    assert replay._leaves["latent", "deterministic"][:, 0].tolist() == [0, 0, 2, 0, 0, 0]  # slot 0 is recycled since
    late[STREAM] = torch.tensor([0, 4, 5])
    replay.extend(Arrived(history.tensors(5, 6), late))
    assert replay._leaves["latent", "deterministic"][:, 0].tolist() == [0, 0, 2, 0, 0, 0]


def test_bookkeeping_of_a_64_pixel_frame_is_under_a_twentieth_of_it():
    for by in ("episode", "window"):
        replay = build(100, 16, by)
        rows = History([(0, "step")] * 3).tensors(0, 3).exclude("latent", "frame", "observation")
        rows["pixels"] = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
        rows["previous_action"], rows["reward"] = torch.zeros(3, 6), torch.zeros(3, 1)
        replay.extend(rows)
        assert replay.bytes_per_row <= 1.05 * 3 * 64 * 64


def test_an_emptied_replay_draws_nothing_old_and_its_handles_are_stale():
    replay = build(10, 2, "window")
    fill(replay, History([(0, "step")] * 8))
    handles = replay.sample().select("replay", "latent")
    replay.empty()
    assert (len(replay), replay.episodes, replay.can_sample()) == (0, 0, False)
    assert replay.write_back(handles) == 0
    fill(replay, History([(0, "step")] * 3))
    assert replay.write_back(handles) == 0
    assert drawn(replay, 60).keys() == {(0, 1), (1, 2)}


def test_wrong_rows_and_settings_are_refused_with_what_is_wrong():
    rows = History([(0, "step")] * 3).tensors(0, 3)
    with pytest.raises(ValueError, match="no sampling law"):
        build(10, 2, "slice")
    with pytest.raises(ValueError, match="window of 11 rows"):
        build(10, 11, "window")
    with pytest.raises(ValueError, match="do not fit a ring of 2"):
        build(2, 2, "window").extend(rows)
    with pytest.raises(KeyError, match="stream"):
        build(10, 2, "window").extend(rows.exclude(STREAM))
    with pytest.raises(ValueError, match=r"needs \[C, height, width\] frames"):
        build(10, 2, "window", frame_stack={"observation": 3}).extend(rows)
    replay = build(10, 2, "window")
    replay.extend(rows)
    with pytest.raises(KeyError, match=r"lack.*observation"):
        replay.extend(rows.exclude("observation"))
    rows["terminated"] = torch.ones_like(rows["terminated"])
    with pytest.raises(ValueError, match="row 1 continues an episode of stream 0 that is over"):
        replay.extend(rows)
    assert len(replay) == 3
    with pytest.raises(NotImplementedError, match="save"):
        replay.state_dict()


def test_a_transform_may_drop_the_handles_of_what_was_sampled():
    replay = Replay(capacity=40, window=4, batch_size=2, by="window")
    flags = {name: torch.zeros(10, 1, dtype=torch.bool) for name in ("is_init", "terminated", "truncated")}
    flags["is_init"][0] = True
    replay.extend(TensorDict({STREAM: torch.zeros(10, dtype=torch.int64), **flags}, [10]))
    replay.append_transform(ExcludeTransform(INDEX, GENERATION))
    batch, info = replay.sample(return_info=True)
    assert batch.get(INDEX, None) is None
    assert info[INDEX].shape == info[GENERATION].shape == (2, 4)
