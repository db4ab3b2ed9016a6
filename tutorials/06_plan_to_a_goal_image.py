# %% [markdown]
# # Plan to a goal image
# A JEPA learns how a room's images follow from each other, from random actions and without any reward. Then it is shown
# another image of the room and plans the actions that lead there, as a policy in a stock TorchRL collector.

# %%
import os
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType

from worldloom_rl.envs import make_env
from worldloom_rl.models.jepa import make_policy
from worldloom_rl.recipes import jepa
from worldloom_rl.training import loop

STEPS = int(os.environ.get("TUTORIAL_STEPS", "1500"))  # gradient updates; a test makes fewer
ROOMS = 4
folder = Path(os.environ.get("TUTORIAL_PICTURES", tempfile.mkdtemp()))

# %% [markdown]
# `loop.step` collects until all data is there, then makes an update at a time: about a minute. The prediction loss says
# little, for a model to which all images look alike predicts perfectly; `z_std`, the spread of its embeddings, must not
# fall to zero.

# %%
config = jepa.Config(env="worldloom/PointRoom-v0", collect=6 * STEPS, steps=STEPS, num_envs=4)
state = jepa.make_state(config)
while state.updates < STEPS:
    loop.step(jepa.RECIPE, state)
print(f"prediction loss {state.metrics['loss_prediction']:.4f}, z_std {state.metrics['z_std']:.2f}")

# %% [markdown]
# Each room shows where the point is ("pixels") and where it should be ("goal", "pixels"). The policy encodes the goal
# once an episode, imagines the outcomes of action sequences by CEM, and does the first action of the best.

# %%
rooms = make_env(config.env, num_envs=ROOMS, seed=3)
length = 20  # of an episode
collector = Collector(
    rooms,
    make_policy(state.model),
    frames_per_batch=ROOMS * length,
    total_frames=ROOMS * length,
    exploration_type=ExplorationType.DETERMINISTIC,
    auto_register_policy_transforms=True,
)
episodes = next(iter(collector))
print(f"return of each room, minus the distance at every step: {episodes['next', 'reward'].sum(1).flatten().tolist()}")

# %% [markdown]
# The picture: for each room what the policy saw, and the path that the images tell (the centre of their brightness).


# %%
def place(images: Tensor) -> Tensor:
    """[..., 2] right and down, in pixels, of images [..., 3, height, width]."""
    brightness = images.float().mean(-3)
    pixels = torch.arange(brightness.shape[-1])
    across, down = brightness.sum(-2), brightness.sum(-1)
    return torch.stack([(axis * pixels).sum(-1) / axis.sum(-1) for axis in (across, down)], -1)


seen = torch.cat([episodes["pixels"], episodes["next", "pixels"][:, -1:]], 1)  # [ROOMS, 21, 3, 16, 16]
goal = episodes["goal", "pixels"][:, 0]
path, target = place(seen), place(goal)
far = (path - target.unsqueeze(1)).norm(dim=-1)  # [ROOMS, 21] pixels
figure = Figure(figsize=(2.6 * ROOMS, 4.1), layout="constrained")
grid = figure.subplot_mosaic(
    [
        [f"path {room}" for room in range(ROOMS) for _ in range(3)],
        [f"{name} {room}" for room in range(ROOMS) for name in ("start", "end", "goal")],
    ],
    height_ratios=[3, 1],
)
for room in range(ROOMS):
    axes = grid[f"path {room}"]
    axes.plot(*path[room].T.numpy(), color="grey", zorder=1, label="path, from dark to light")
    axes.scatter(*path[room].T.numpy(), c=range(length + 1), cmap="viridis", s=25, zorder=2)
    axes.scatter(
        *path[room, 0].numpy(), marker="s", s=130, facecolor="none", edgecolor="black", linewidth=2, label="start"
    )
    axes.scatter(*target[room].numpy(), marker="*", s=260, color="red", edgecolor="white", zorder=3, label="goal")
    axes.set(
        xlim=(0, 15), ylim=(15, 0), xticks=[], yticks=[], aspect="equal", title=f"ends {far[room, -1]:.1f} pixels away"
    )
    for name, image in (("start", seen[room, 0]), ("end", seen[room, -1]), ("goal", goal[room])):
        axes = grid[f"{name} {room}"]
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set(xticks=[], yticks=[], xlabel=name)
figure.legend(*grid["path 0"].get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure.savefig(folder / "plan_to_a_goal_image.png", dpi=80)
print(f"mean distance from the goal: {far[:, 0].mean():.1f} pixels at first, {far[:, -1].mean():.1f} at the end")
print(f"the picture: {folder / 'plan_to_a_goal_image.png'}")
