"""Nearest memories: what is shown for an imagined latent is what was seen at the nearest one."""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import pytest
import torch
from analytic_model import Analytic
from torch import Tensor
from torchrl.data import Bounded, Composite, OneHot, Unbounded

from worldloom_rl.data.memories import Memories
from worldloom_rl.envs.catch import _COLUMNS, _MOVES, _ROWS, Catch
from worldloom_rl.envs.point_room import NEAR, REACH, PointRoom


def fall(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
    """Catch while a ball falls; its state is row, column, drift and paddle."""
    row, column, drift, paddle = state.unbind(-1)
    row, column = row + 1, column + drift
    column = torch.where(column < 0, -column, torch.where(column >= _COLUMNS, 2 * (_COLUMNS - 1) - column, column))
    moved = (paddle + action @ torch.tensor(_MOVES, dtype=torch.float32)).clamp(0, _COLUMNS - 1)
    return torch.stack([row, column, drift, moved], -1), torch.zeros_like(state[..., :1]), 1.0


def push(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
    """PointRoom; its state is the position."""
    return (state + REACH * action).clamp(-1, 1), torch.zeros_like(state[..., :1]), 1.0


def catch_state(env: Catch) -> Tensor:
    return torch.tensor([env.row, env.column, env.drift, env.paddle], dtype=torch.float32)


def room_state(env: PointRoom) -> Tensor:
    return torch.tensor(env.position, dtype=torch.float32)


def cells(picture: np.ndarray) -> tuple[tuple[int, int], int]:
    """Where in a picture of Catch the ball's corner and the paddle's left end are."""
    ball, paddle = (picture[..., :2] == 255).all(-1), (picture == (0, 0, 255)).all(-1)
    return tuple(np.argwhere(ball)[0] // 8), int(np.argwhere(paddle)[0][1]) // 8  # type: ignore[return-value]


def centre(picture: np.ndarray) -> np.ndarray:
    """Where in a picture of PointRoom the point is, [2] in the room's units."""
    weight = picture[..., 0].astype(float)
    place = np.array([(weight.sum(axis) * np.arange(16)).sum() / weight.sum() for axis in (0, 1)])
    return (place - 2) / 11 * 2 - 1


def same_cells(shown: np.ndarray, env: Catch) -> bool:
    return cells(shown) == cells(env.render())


def near(shown: np.ndarray, env: PointRoom) -> bool:
    return bool(np.linalg.norm(centre(shown) - env.position) < NEAR)


GAMES = {
    "Catch": (Catch, Analytic(fall, OneHot(5), width=4), catch_state, same_cells, 6000),
    "PointRoom": (PointRoom, Analytic(push, Bounded(-1.0, 1.0, (2,)), width=2), room_state, near, 600),
}


def act(env: gymnasium.Env) -> tuple[object, Tensor]:
    """A random action as the simulator and as the model take it."""
    drawn = env.action_space.sample()
    flat = torch.eye(5)[drawn] if isinstance(env, Catch) else torch.as_tensor(drawn)
    return drawn, flat.float()


def share_right(name: str, shuffled: bool = False) -> float:
    """Of the steps in which something moves, where the nearest memory of what was foreseen shows the true place."""
    make, model, state, right, steps = GAMES[name]
    env = make()
    env.action_space.seed(0)
    latents, frames = [], []
    env.reset(seed=0)
    for _ in range(steps):
        latents.append({"deterministic": state(env)})
        frames.append(env.render())
        if any(env.step(act(env)[0])[2:4]):
            env.reset()
    if shuffled:
        random.Random(0).shuffle(frames)
    memories: Memories[np.ndarray] = Memories(model, most=steps)
    for latent, frame in zip(latents, frames, strict=True):
        memories.add(latent, frame)
    found = []
    env.reset(seed=1)
    for _ in range(300):
        drawn, flat = act(env)
        foreseeable = not isinstance(env, Catch) or env.row < _ROWS  # nobody knows where the next ball begins
        imagined = model.predict_latent({"deterministic": state(env).unsqueeze(0)}, flat.unsqueeze(0), model.noise)
        ended = any(env.step(drawn)[2:4])
        if foreseeable:
            found.append(right(memories.recall(imagined.latent).seen[0], env))
        if ended:
            env.reset()
    return float(np.mean(found))


@pytest.mark.parametrize("name", GAMES)
def test_the_nearest_memory_of_a_prediction_shows_the_true_place_and_of_a_shuffled_library_it_does_not(
    name: str,
) -> None:
    assert share_right(name) >= 0.9
    assert share_right(name, shuffled=True) < 0.2


def test_distance_is_told_in_that_of_two_memories_at_random() -> None:
    memories: Memories[str] = Memories(Analytic(push, Composite(action=Bounded(-1.0, 1.0, (2,))), width=2))
    torch.manual_seed(0)
    for number, position in enumerate(torch.randn(2000, 2)):
        memories.add({"deterministic": position}, str(number))
    pairs = torch.randn(2000, 2), torch.randn(2000, 2)
    unit = (pairs[0] - pairs[1]).square().sum(-1).mean().sqrt()
    far = memories.recall({"deterministic": torch.tensor([[30.0, 0.0], [1.0, 0.0]])})
    assert float(far.distance[0] * unit) == pytest.approx(27, abs=1.5)  # the outermost of so many is about three away
    assert float(far.distance[1]) < 0.1


def test_the_oldest_memories_are_forgotten_and_an_empty_library_says_so() -> None:
    memories: Memories[int] = Memories(Analytic(push, Composite(action=Bounded(-1.0, 1.0, (2,))), width=2), most=3)
    with pytest.raises(ValueError, match="no memories to recall"):
        memories.recall({"deterministic": torch.zeros(1, 2)})
    for number in range(5):
        memories.add({"deterministic": torch.full((2,), float(number))}, number)
    assert len(memories) == 3
    nearest = memories.recall({"deterministic": torch.tensor([[0.0, 0.0], [3.2, 3.2], [9.0, 9.0]])})
    assert nearest.seen == [2, 3, 4]


def test_a_goal_does_not_tell_memories_apart() -> None:
    from worldloom_rl.models.jepa import JEPA
    from worldloom_rl.pretrained.registry import find_preset

    spec = Composite(vector=Unbounded((3,)))
    model = JEPA(find_preset("jepa:tiny")[1], spec, Composite(action=Bounded(-1.0, 1.0, (2,))))
    memories: Memories[str] = Memories(model)
    latent = model.initial_latent()
    for value, seen in ((0.0, "here"), (1.0, "there")):
        memories.add({**latent, "tokens": latent["tokens"] + value, "goal": latent["goal"] + 9 * value}, seen)
    asked = {**latent, "tokens": latent["tokens"] + 0.9}
    assert memories.recall({name: value.unsqueeze(0) for name, value in asked.items()}).seen == ["there"]
