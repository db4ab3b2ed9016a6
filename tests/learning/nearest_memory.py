"""How often the nearest memory of a one-step prediction shows the true place, by a JEPA that learned PointRoom.

`python nearest_memory.py SEED…` trains a model (`plan_to_goal.py`), fills a library with what it made of new random
episodes, asks it in others, and writes the shares beside the other results: also of a shuffled library.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import plan_to_goal
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from test_learning import RESULTS
from torch import Tensor

from worldloom_rl.atomic import write_json
from worldloom_rl.data.memories import Memories
from worldloom_rl.envs import make_env
from worldloom_rl.envs.point_room import EPISODE_STEPS, NEAR, SIZE
from worldloom_rl.models.jepa import JEPA
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import with_primers
from worldloom_rl.training.run_directory import provenance

REMEMBERED, ASKED = 30, 15  # episodes


@torch.no_grad()
def episodes(model: JEPA, count: int, seed: int) -> TensorDictBase:
    """[count, steps] of random actions, with the latents that the model had before each."""
    torch.manual_seed(seed)
    drawn = TensorDictModule(lambda z: 2 * torch.rand(*z.shape[:1], 2) - 1, [("latent", "tokens")], ["action"])
    policy = TensorDictSequential(model.observe, drawn, model.carry_action)
    env = with_primers(make_env(plan_to_goal.ENV, num_envs=count, seed=seed), policy)
    played = env.rollout(EPISODE_STEPS, policy, break_when_any_done=False)
    env.close()
    return played


def places(images: Tensor) -> Tensor:
    """[N, 2] where the point is in images uint8 [N, 3, 16, 16], in the room's units."""
    weight = images[:, 0].double()
    weight = weight / weight.sum((-2, -1), keepdim=True)
    pixel = torch.stack([(weight.sum(axis) * torch.arange(SIZE)).sum(-1) for axis in (-2, -1)], -1)
    return (pixel - 2) / (SIZE - 5) * 2 - 1


@torch.no_grad()
def share_right(model: JEPA, seed: int, *, shuffled: bool) -> float:
    """Of the predictions, those whose nearest memory is as near to the true place as counts for being there."""
    known = episodes(model, REMEMBERED, 8_000 + seed).reshape(-1)
    frames = list(known["pixels"])
    if shuffled:
        random.Random(seed).shuffle(frames)
    memories: Memories[Tensor] = Memories(model, most=len(frames))
    for row, frame in zip(known, frames, strict=True):
        memories.add(model.read_latent(row), frame)
    asked = episodes(model, ASKED, 9_000 + seed).reshape(-1)
    foreseen = model.predict_latent(model.read_latent(asked), model.read_action(asked), model.noise).latent
    shown = torch.stack(memories.recall(foreseen).seen)
    apart = (places(shown) - places(asked["next", "pixels"])).norm(dim=-1)
    return float((apart < NEAR).double().mean())


def fresh(seed: int) -> JEPA:
    """A model that has learned nothing."""
    torch.manual_seed(seed)
    return JEPA(find_preset("jepa:tiny")[1], *specs_of(make_env(plan_to_goal.ENV)))


def measured(seed: int) -> dict[str, Any]:
    """A model, trained, and its shares."""
    model = fresh(seed)
    training = plan_to_goal.train(model, plan_to_goal.collect(model, seed), seed)
    return {
        "env": plan_to_goal.ENV,
        "seed": seed,
        "config": model.config.to_json(),
        "training": training,
        "memories": REMEMBERED * EPISODE_STEPS,
        "predictions": ASKED * EPISODE_STEPS,
        "right": share_right(model, seed, shuffled=False),
        "right_of_shuffled_memories": share_right(model, seed, shuffled=True),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in map(int, sys.argv[1:]):
        result = measured(number)
        write_json(RESULTS / f"nearest-memory-point-room-seed{number}.json", {**result, **provenance()})
        sys.stdout.write(f"seed {number}: {result['right']:.1%} right, {result['right_of_shuffled_memories']:.1%}\n")
