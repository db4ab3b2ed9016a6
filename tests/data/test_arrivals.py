"""Transitions become rows: each observation once, with the action and reward that led to it."""

from __future__ import annotations

import pytest
import torch
from recurrent_model import Recurrent, RecurrentConfig
from tensordict import TensorDict
from torchrl.envs import InitTracker, TransformedEnv

from worldloom_rl import ImaginationEnv
from worldloom_rl.data import Arrivals
from worldloom_rl.keys import STREAM

LATENT = ("latent", "deterministic")


def transitions(observations, nexts, dones, *, inits=None, terminated=None, dtype=torch.float32):
    """[E, T] transitions; action is 100 + observation, reward 10 · next observation, latent observation + 0.5."""
    done = torch.tensor(dones).bool().unsqueeze(-1)
    observation = torch.tensor(observations, dtype=dtype).unsqueeze(-1)
    following = torch.tensor(nexts, dtype=dtype).unsqueeze(-1)
    ended = done if terminated is None else torch.tensor(terminated).bool().unsqueeze(-1)
    root = {"observation": observation, "action": observation + 100, LATENT: observation + 0.5}
    start = torch.zeros_like(done) if inits is None else torch.tensor(inits).bool().unsqueeze(-1)
    data = TensorDict({"is_init": start}, batch_size=observation.shape[:-1])
    for key, value in root.items():
        data[key] = value
    following_entries = {
        "observation": following,
        "reward": 10 * following,
        "done": done,
        "terminated": ended,
        "truncated": done & ~ended,
    }
    data["next"] = TensorDict(following_entries, batch_size=data.batch_size)
    return data


def table(rows, *keys):
    return [tuple(row[key].float().reshape(()).item() for key in keys) for row in rows]


COLUMNS = ("observation", "previous_action", "reward", "is_init", "terminated", "truncated", STREAM)


def test_rows_match_the_hand_written_table_of_the_design():
    data = transitions([[0, 1, 5]], [[1, 2, 6]], [[0, 1, 0]], inits=[[1, 0, 1]], terminated=[[0, 1, 0]])
    assert table(Arrivals(["observation"])(data).rows, *COLUMNS) == [
        (0, 0, 0, 1, 0, 0, 0),
        (1, 100, 10, 0, 0, 0, 0),
        (2, 101, 20, 0, 1, 0, 0),
        (5, 0, 0, 1, 0, 0, 0),
        (6, 105, 60, 0, 0, 0, 0),
    ]


def test_a_time_limit_is_truncated_and_not_terminated():
    rows = Arrivals(["observation"])(transitions([[0]], [[1]], [[1]], inits=[[1]], terminated=[[0]])).rows
    assert table(rows, "terminated", "truncated") == [(0, 0), (0, 1)]


def test_a_done_without_a_truncated_entry_is_truncated_where_it_is_not_terminated():
    data = transitions([[0, 1]], [[1, 2]], [[1, 1]], inits=[[1, 1]], terminated=[[0, 1]]).exclude(("next", "truncated"))
    assert table(Arrivals(["observation"])(data).rows, "truncated") == [(0,), (1,), (0,), (0,)]


def test_a_termination_at_the_time_limit_is_both():
    data = transitions([[0]], [[1]], [[1]], inits=[[1]])
    data["next", "truncated"] = torch.ones(1, 1, 1, dtype=torch.bool)
    assert table(Arrivals(["observation"])(data).rows, "terminated", "truncated") == [(0, 0), (1, 1)]


def test_streams_are_environments_and_go_on_over_batches_without_repeating_a_frame():
    arrivals = Arrivals(["observation"])
    first = arrivals(transitions([[0, 1], [10, 11]], [[1, 2], [11, 12]], [[0, 0], [0, 1]], inits=[[1, 0], [1, 0]])).rows
    second = arrivals(transitions([[2], [20]], [[3], [21]], [[0], [0]], inits=[[0], [1]])).rows
    assert table(first, "observation", STREAM) == [(0, 0), (1, 0), (2, 0), (10, 1), (11, 1), (12, 1)]
    assert table(second, "observation", "is_init", STREAM) == [(3, 0, 0), (20, 1, 1), (21, 0, 1)]


def test_a_stream_whose_last_row_is_unknown_starts_with_an_init_row():
    rows = Arrivals(["observation"])(transitions([7], [8], [0], inits=[0])).rows
    assert table(rows, "observation", "is_init", "reward") == [(7, 1, 0), (8, 0, 80)]


def test_batches_of_any_leading_shape_are_flattened_to_streams():
    data = transitions([[0], [10]], [[1], [11]], [[0], [0]], inits=[[1], [1]])
    rows = Arrivals(["observation"])(data.reshape(2, 1, 1)).rows
    assert table(rows, "observation", STREAM) == [(0, 0), (1, 0), (10, 1), (11, 1)]


def test_latents_stand_at_their_own_observation_and_terminal_rows_have_zeros():
    data = transitions([[0, 1, 5]], [[1, 2, 6]], [[0, 1, 0]], inits=[[1, 0, 1]])
    arrived = Arrivals(["observation"], latent_keys=[LATENT])(data)
    assert table(arrived.rows, "observation", LATENT) == [(0, 0.5), (1, 1.5), (2, 0), (5, 5.5), (6, 0)]
    assert arrived.late is None


def test_the_last_row_of_a_batch_gets_its_latent_with_the_next_batch():
    arrivals = Arrivals(["observation"], latent_keys=[LATENT])
    arrivals(transitions([[0], [10]], [[1], [11]], [[0], [1]], inits=[[1], [1]]))
    late = arrivals(transitions([[1], [20]], [[2], [21]], [[0], [0]], inits=[[0], [1]])).late
    assert late is not None
    assert table(late, STREAM, LATENT) == [(0, 1.5)]


def test_latents_of_imagined_transitions_are_refused():
    model = Recurrent(RecurrentConfig(), *Recurrent.default_specs())
    imagined = TransformedEnv(ImaginationEnv(model), InitTracker()).rollout(3)
    imagined["observation"] = imagined["next", "observation"] = torch.zeros(3, 1)
    assert len(Arrivals(["observation"], model.action_keys)(imagined).rows) == 4
    with pytest.raises(ValueError, match=r"are imagined.*Give Arrivals no latent_keys"):
        Arrivals(["observation"], model.action_keys, model.latent_keys)(imagined)


def test_float64_becomes_float32_and_other_dtypes_stay():
    data = transitions([[0]], [[1]], [[0]], inits=[[1]], dtype=torch.float64)
    data["pixels"] = torch.zeros(1, 1, 3, 2, 2, dtype=torch.uint8)
    data["next", "pixels"] = torch.ones(1, 1, 3, 2, 2, dtype=torch.uint8)
    rows = Arrivals(["observation", "pixels"])(data).rows
    assert (rows["observation"].dtype, rows["reward"].dtype) == (torch.float32, torch.float32)
    assert rows["pixels"].dtype == torch.uint8
    assert rows["pixels"].flatten(1).tolist() == [[0] * 12, [1] * 12]


def test_composite_actions_are_kept_under_previous_action():
    data = transitions([[0]], [[1]], [[0]], inits=[[1]])
    data["arm", "torque"], data["legs"] = data["action"], data["action"] + 1
    rows = Arrivals(["observation"], [("arm", "torque"), "legs"])(data).rows
    assert rows["previous_action", "arm", "torque"].tolist() == [[0.0], [100.0]]
    assert rows["previous_action", "legs"].tolist() == [[0.0], [101.0]]


@pytest.mark.parametrize("key", ["is_init", "observation", "action", ("next", "terminated"), ("next", "reward")])
def test_a_missing_entry_is_named_with_what_was_given(key):
    data = transitions([[0]], [[1]], [[0]], inits=[[1]]).exclude(key)
    with pytest.raises(KeyError, match=f"no entry.*{key if isinstance(key, str) else key[-1]}.*they hold"):
        Arrivals(["observation"])(data)


def test_a_nan_reward_is_refused_and_located_and_leaves_the_streams_as_they_were():
    arrivals, data = Arrivals(["observation"]), transitions([[0, 1]], [[1, 2]], [[0, 0]], inits=[[1, 0]])
    bad = data.clone()
    bad["next", "reward"][0, 1] = torch.nan
    with pytest.raises(ValueError, match="stream 0 at time 1"):
        arrivals(bad)
    assert len(arrivals(data).rows) == 3


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["observation", ("next", "observation")])
def test_an_observation_that_is_not_finite_is_refused_and_located_and_a_missing_entry_is_taken(key, wrong):
    arrivals, data = Arrivals(["observation"]), transitions([[0, 1]], [[1, 2]], [[0, 0]], inits=[[1, 0]])
    bad = data.clone()
    bad[key] = bad[key].float()
    bad[key][0, 1] = wrong
    with pytest.raises(ValueError, match=r"1 of 2 observations .* are NaN or infinite.* in stream 0 at time 1"):
        arrivals(bad)
    bad[key][0, 1] = -torch.inf
    assert len(arrivals(bad).rows) == 3


def test_another_number_of_streams_is_refused():
    arrivals = Arrivals(["observation"])
    arrivals(transitions([[0]], [[1]], [[0]], inits=[[1]]))
    with pytest.raises(ValueError, match="2 streams and had 1"):
        arrivals(transitions([[0], [1]], [[1], [2]], [[0], [0]]))
