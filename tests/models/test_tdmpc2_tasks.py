"""A TD-MPC2 model and the tasks that it knows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from worldloom_rl import AutoWorldModel
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.tasks import TaskSet

TASKS = TaskSet(("dmc:cup-catch", "mw-reach", "Pendulum-v1"), (8, 39, 3), (2, 4, 1), (500, 100, 2000))
SMALL = TDMPC2Config.from_size("tiny", encoder_dim=8, mlp_dim=8, latent_dim=8, num_bins=11, task_dim=4)


def test_a_model_of_tasks_has_their_widths_masks_and_discounts() -> None:
    model = TDMPC2.for_tasks(SMALL, TASKS)
    assert model.tasks == TASKS
    assert model.discounts.tolist() == pytest.approx([0.99, 0.95, 0.995])
    assert model.action_masks.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    rows = TensorDict({"observation": torch.zeros(3, 39), "task": torch.arange(3)}, batch_size=[3])
    action = model.make_actor()(model.encode(rows))["action"]
    assert action.shape == (3, 4)
    assert (action[model.action_masks == 0] == 0).all()


def test_discounts_that_are_given_one_a_task_are_kept() -> None:
    given = dataclasses.replace(SMALL, action_dims=(1, 1, 1), discount=(0.9, 0.8, 0.7))
    assert TDMPC2.for_tasks(given, TASKS).config.discount == (0.9, 0.8, 0.7)


def test_a_saved_model_keeps_its_tasks_and_an_older_one_knows_none(tmp_path: Path) -> None:
    model = TDMPC2.for_tasks(SMALL, TASKS)
    model.save_pretrained(tmp_path)
    loaded = AutoWorldModel.from_pretrained(tmp_path)
    assert isinstance(loaded, TDMPC2)
    assert loaded.tasks == TASKS

    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    for name in ("task_names", "observation_dims", "episode_lengths"):  # as version 0.6 wrote it
        del content["config"][name]
    file.write_text(json.dumps(content))
    older = AutoWorldModel.from_pretrained(tmp_path)
    assert isinstance(older, TDMPC2)
    assert older.tasks is None
    assert older.config.num_tasks == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_names": ("a",)}, "action_dims has 0 numbers, but task_names 1 names"),
        ({"observation_dims": (3, 3)}, "observation_dims has 2 numbers, but task_names 0 names"),
        ({"task_names": ("a",), "action_dims": (1,), "observation_dims": (3,)}, "episode_lengths has 0 numbers"),
    ],
)
def test_sizes_that_are_not_one_a_task_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
