"""Nearest memories of a trained model: the script that counts those that show the true place, and what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nearest_memory import episodes, fresh, places
from test_learning import RESULTS

from worldloom_rl.envs.point_room import picture


def test_a_place_is_read_from_an_image_as_it_was_drawn() -> None:
    drawn = torch.rand(20, 2, dtype=torch.float64) * 2 - 1
    images = torch.stack([torch.from_numpy(picture(place.numpy())).permute(2, 0, 1) for place in drawn])
    assert torch.allclose(places(images), drawn, atol=0.05)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("nearest-memory-point-room-*.json")), ids=lambda file: file.stem)
def test_nine_of_ten_memories_show_the_true_place_and_of_shuffled_ones_few(file: Path) -> None:
    result = json.loads(file.read_text())
    assert {"commit", "tree", "versions", "machine", "config"} <= set(result)
    assert result["right"] >= 0.9
    assert result["right_of_shuffled_memories"] < 0.2


def test_episodes_hold_the_latent_before_each_step() -> None:
    model = fresh(0)
    played = episodes(model, 2, 0)
    assert played.batch_size == (2, 20)
    assert all(played.get(key).isfinite().all() for key in model.latent_keys)
    assert not played["latent", "tokens"][:, 1].equal(played["latent", "tokens"][:, 0])
