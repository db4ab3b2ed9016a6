"""Writes the folders beside it with version 0.6.0 (see README.md): saved models, stopped runs, and what followed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded

from worldloom_rl import WorldModel
from worldloom_rl.noise import ModeNoise

MODELS: dict[str, dict[str, Any]] = {  # the preset "tiny", smaller still
    "tdmpc2": {
        "encoder_dim": 12, "mlp_dim": 12, "latent_dim": 8, "simnorm_dim": 4, "num_bins": 9, "num_channels": 2,
        "episodic": True,
    },
    "dreamerv3": {
        "deterministic": 16, "hidden": 8, "groups": 3, "classes": 4, "blocks": 2, "units": 8, "depth": 2,
        "num_bins": 9, "imagination_starts": 2, "horizon": 3,
    },
    "tokens": {
        "levels": (3, 4), "token_width": 4, "depth": 2, "width": 8, "layers": 1, "attention_heads": 2, "units": 8,
        "num_bins": 9, "horizon": 3,
    },
    "jepa": {
        "cnn_channels": 2, "vector_dim": 8, "latent_dim": 4, "projector_dim": 8, "predictor_dim": 8,
        "predictor_layers": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 8,
        "sigreg_directions": 4, "action_filters": 3,
    },
    "frozen_jepa": {"layers": 1, "heads": 2, "head_dim": 4, "mlp_dim": 8},
    "vjepa2": {
        "image_size": 16, "encoder_dim": 12, "encoder_heads": 2, "encoder_mlp_dim": 12, "predictor_dim": 12,
        "predictor_depth": 1, "predictor_heads": 2, "predictor_mlp_dim": 12,
    },
}  # fmt: skip
IMAGES = {"frozen_jepa": 32, "jepa": 24, "vjepa2": 16}  # rows and columns, where the default's are many
TRAIN = {
    "tdmpc2": [
        "--env", "Pendulum-v1", "--time-limit", "15", "--steps", "92", "--seed-steps", "60", "--capacity", "200",
        "--checkpoint-every", "80", "--eval-every", "100", "--eval-episodes", "2", "--final-eval-episodes", "2",
        "--overrides", "num_samples=16", "num_elites=4", "num_policy_trajectories=2", "iterations=2", "batch_size=8",
        "min_seed_steps=60", "encoder_dim=12", "mlp_dim=12", "latent_dim=8", "simnorm_dim=4", "num_bins=9",
    ],
    "dreamerv3": [
        "--env", "CartPole-v1", "--num-envs", "2", "--steps", "84", "--capacity", "200", "--checkpoint-every", "76",
        "--eval-every", "100", "--eval-episodes", "2", "--final-eval-episodes", "2", "--overrides", "batch_size=4",
        "batch_length=8", "imagination_starts=2", "horizon=3", "deterministic=16", "hidden=8", "groups=3", "classes=4",
        "blocks=2", "units=8", "num_bins=9",
    ],
    "tokens": [
        "--env", "worldloom/Catch-v0", "--time-limit", "15", "--steps", "30", "--capacity", "40",
        "--checkpoint-every", "24", "--eval-every", "100", "--eval-episodes", "2", "--final-eval-episodes", "2",
        "--overrides", "batch_size=4", "depth=2", "width=8", "horizon=3", "min_seed_steps=12", "tokenizer_updates=6",
        "behavior_start=8", "attention_heads=2", "updates_per_step=1", "token_width=4", "layers=1",
        "units=8", "num_bins=9",
    ],
    "jepa": [
        "--env", "worldloom/PointRoom-v0", "--collect", "60", "--steps", "20", "--checkpoint-every", "12",
        "--eval-every", "100", "--eval-episodes", "2", "--final-eval-episodes", "2", "--overrides", "batch_size=8",
        "cnn_channels=2", "vector_dim=8", "latent_dim=4", "projector_dim=8", "predictor_dim=8", "predictor_layers=1",
        "predictor_heads=2", "predictor_head_dim=4", "predictor_mlp=8", "sigreg_directions=4", "action_filters=3",
        "num_samples=8", "num_elites=2", "iterations=1",
    ],
}  # fmt: skip


def inputs_of(model: WorldModel) -> dict[str, Tensor]:
    """Two observations, with their goals where there are any, and three actions for each, under "/" joined keys."""
    observations = model.observation_spec.rand(torch.Size((2,)))
    tensors = {"/".join(key) if isinstance(key, tuple) else key: x for key, x in observations.items(True, True)}
    actions = model.action_spec.rand(torch.Size((2, 3)))
    named = {"/".join(key) if isinstance(key, tuple) else key: x for key, x in actions.items(True, True)}
    return {
        **{f"observation/{key}": x for key, x in tensors.items()},
        **{f"action/{key}": x for key, x in named.items()},
    }


def outputs_of(model: WorldModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model says of the inputs with the most central draws: latents, one prediction, three imagined steps."""
    model.eval()
    model.noise = ModeNoise()
    given = {name: TensorDict({}, batch_size=[2]) for name in ("observation", "action")}
    for name, x in inputs.items():
        kind, *key = name.split("/")
        given[kind].set(tuple(key), x)
    with torch.no_grad():
        start = model.encode(given["observation"].clone()).select("latent")
        predicted = model.predict(start.clone().update(given["action"][:, ...].apply(lambda x: x[:, 0])))
        flat = model.action_space.flatten({key: given["action"].get(key) for key in model.action_keys})
        imagined = model.imagine(start, actions=flat, noise=ModeNoise())["next"]
    found = {"encode": start, "predict": predicted.select("latent", "reward", "continue"), "imagine": imagined}
    return {
        "/".join([verb, *(key if isinstance(key, tuple) else (key,))]): x.contiguous().clone()
        for verb, td in found.items()
        for key, x in td.items(True, True)
        if key != ("latent", "window")  # the frames before, which the later ones follow from
    }


def make_model(family: str, folder: Path) -> None:
    from worldloom_rl.registry import find_preset  # where 0.6.0 has it; no later version runs this

    found, config = find_preset(f"{family}:tiny")
    torch.manual_seed(0)
    observations, actions = found.model_class.default_specs()
    if family in IMAGES:
        observations["pixels"] = Bounded(0, 255, shape=(3, IMAGES[family], IMAGES[family]), dtype=torch.uint8)
    model = found.model_class(dataclasses.replace(config, **MODELS[family]), observations, actions).eval()
    with torch.no_grad():  # heads that begin at zero say something
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.requires_grad)
    model.save_pretrained(folder)
    inputs = inputs_of(model)
    save_file(inputs, folder / "inputs.safetensors")
    save_file(outputs_of(type(model).from_pretrained(folder), inputs), folder / "outputs.safetensors")


def make_run(family: str, folder: Path) -> None:
    """A run up to its last checkpoint but one, and the weights that 0.6.0 had when it had resumed it to the end."""
    from test_runs_of_0_6 import probe

    from worldloom_rl.cli import main

    os.chdir(folder.parent)  # so that config.json tells nothing of the machine
    main(["train", family, *TRAIN[family], "--run-directory", folder.name])
    checkpoints = sorted((folder / "checkpoints").iterdir())
    whole = load_file(checkpoints[-1] / "model" / "model.safetensors")
    for left in (*checkpoints[:-2], checkpoints[-1], folder / "logs" / "tensorboard", folder / "report"):
        shutil.rmtree(left, ignore_errors=True)
    for left in (*folder.glob("*.png"), *folder.glob("*.gif"), *folder.glob("*.md"), folder / "result.json"):
        left.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / "run")
        main(["resume", str(copy)])
        last = sorted((copy / "checkpoints").iterdir())[-1]
        weights = load_file(last / "model" / "model.safetensors")
        assert all(torch.equal(weights[name], x) for name, x in whole.items())
        result = json.loads((copy / "result.json").read_text())
    save_file(weights, folder / "resumed.safetensors")
    kept = {"checkpoint": last.name, "final_returns": result["final_returns"], "probe": probe()}
    (folder / "resumed.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Path(__file__).parent
    for name in sys.argv[1:] or [*(f"model-{family}" for family in MODELS), *(f"run-{family}" for family in TRAIN)]:
        kind, family = name.split("-")
        shutil.rmtree(here / name, ignore_errors=True)
        (make_model if kind == "model" else make_run)(family, here / name)
