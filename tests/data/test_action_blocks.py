"""Frame skip: windows of every k-th frame with blocks of k actions are what an environment of such blocks gives."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite
from torchrl.envs import EnvBase

from worldloom_rl.data import Arrivals
from worldloom_rl.data.action_blocks import action_block_spec, action_blocks
from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.environment import specs_of

torch.set_num_threads(1)


def pairs(length: int) -> Composite:
    return action_block_spec(Composite(action=Bounded(-9, 9, shape=(2,), dtype=torch.float32)), length)


def test_blocks_match_the_hand_written_table() -> None:
    rows = TensorDict(
        {
            "observation": torch.arange(7.0).reshape(1, 7, 1),
            "previous_action": torch.tensor([[0, 1, 2, 3, 4, 5, 6]]).unsqueeze(-1) * torch.tensor([10.0, -10.0]),
            "is_init": torch.tensor([[1, 0, 0, 0, 0, 0, 0]]).bool().unsqueeze(-1),
        },
        batch_size=[1, 7],
    )
    blocks = action_blocks(rows, 3, ["observation"], pairs(3))[0]
    assert blocks["observation"].tolist() == [[0.0], [3.0], [6.0]]
    assert blocks["is_init"].flatten().tolist() == [True, False, False]
    assert blocks["previous_action"].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [10, -10, 20, -20, 30, -30],
        [40, -40, 50, -50, 60, -60],
    ]
    with pytest.raises(ValueError, match=r"Blocks of 4 actions need 4 · S \+ 1 rows, got 7"):
        action_blocks(rows, 4, ["observation"], pairs(4))


def played(env: EnvBase, actions: torch.Tensor) -> TensorDict:
    """Transitions [T] of given actions, as far as the episode goes."""
    env.set_seed(7)
    td, kept = env.reset(), []
    for action in actions:
        td = env.step(td.set("action", action))
        kept.append(td)
        if td["next", "done"].any():
            break
        td = td["next"].exclude("reward")
        td.set("is_init", torch.zeros(1, dtype=torch.bool))
    return torch.stack(kept)


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "worldloom/Catch-v0"])
def test_an_environment_of_blocks_gives_the_blocks_of_its_single_steps(name: str) -> None:
    single, blocked = make_env(name), make_env(name, action_block=3)
    observation_spec, action_spec = specs_of(single)
    assert action_block_spec(action_spec, 3) == specs_of(blocked)[1]
    assert episode_length(blocked) == -(-episode_length(single) // 3)
    torch.manual_seed(0)
    actions = single.action_spec.rand([18])
    (key,) = observation_spec.keys(True, True)
    rows = Arrivals([key])(played(single, actions)).rows
    whole = rows[: (len(rows) - 1) // 3 * 3 + 1]
    expected = action_blocks(whole, 3, [key], specs_of(blocked)[1])
    blocks = actions.reshape(6, *specs_of(blocked)[1]["action"].shape)
    found = Arrivals([key])(played(blocked, blocks)).rows[: len(expected)]
    for entry in (key, "is_init", "previous_action"):
        assert torch.equal(found[entry], expected[entry]), entry
    rewards = rows["reward"][1 : len(whole)].reshape(-1, 3).sum(-1)
    torch.testing.assert_close(found["reward"][1:].flatten(), rewards)


def test_blocks_of_discrete_actions_are_blocks_of_one_hot_groups() -> None:
    space = ActionSpace(action_block_spec(specs_of(make_env("CartPole-v1"))[1], 2))
    assert space.groups == [(0, 2), (2, 4)]


def test_an_action_that_is_not_flat_has_no_blocks() -> None:
    spec = Composite(action=Bounded(-1, 1, shape=(2, 2), dtype=torch.float32))
    with pytest.raises(ValueError, match="cannot be given in blocks of 2; a flat one can"):
        action_block_spec(spec, 2)
