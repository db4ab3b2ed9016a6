"""A collector in the middle of its episodes, and the random generators, to be kept and to go on exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.collectors import Collector

from worldloom_rl.config import Json
from worldloom_rl.data import Arrivals
from worldloom_rl.envs.snapshot import CannotKeep, environment_state, restore_environment
from worldloom_rl.torchrl_insides import carried, carry
from worldloom_rl.training.manifest import read_json, read_tensors

_TENSORS_FILE = "collection.pt"
_SIMULATORS_FILE = "simulators.json"


def save_generators(directory: Path) -> None:
    """Where all global random generators stand, in a file."""
    torch.save({"random": _random_state()}, directory / _TENSORS_FILE)


def load_generators(directory: Path) -> None:
    """Puts the generators back where `save_generators` or `save_collection` found them."""
    _restore_random_state(read_tensors(directory / _TENSORS_FILE)["random"])


def save_collection(collector: Collector, arrivals: Arrivals, directory: Path) -> None:
    """Where the collector, its environments and all global random generators stand, in two files."""
    counts = collector.state_dict()
    tensors = {
        # TorchRL keeps no carried tensordict in a collector's state_dict: it begins new episodes.
        "carried": carried(collector).to("cpu").to_dict(),
        "counts": {name: counts[name] for name in ("frames", "iter", "traj_pool")},
        "goes_on": arrivals.goes_on,
        "random": _random_state(),
    }
    torch.save(tensors, directory / _TENSORS_FILE)
    try:
        simulators: Json = {"state": environment_state(collector.env)}
    except CannotKeep as reason:
        simulators = {"state": None, "reason": str(reason)}
    (directory / _SIMULATORS_FILE).write_text(json.dumps(simulators))


def load_collection(collector: Collector, arrivals: Arrivals, directory: Path, seed: int) -> str | None:
    """Puts all back that `save_collection` kept; the collector must not have begun.

    Args:
        seed: of the environments if their state could not be kept; they then begin new episodes.

    Returns why new episodes begin, None if the old ones go on.
    """
    tensors = read_tensors(directory / _TENSORS_FILE)
    simulators = read_json(directory / _SIMULATORS_FILE)
    reason: str | None = simulators.get("reason")
    collector.load_state_dict(tensors["counts"], strict=False)
    if simulators["state"] is None:
        collector.env.set_seed(seed)
        collector.reset()
    else:
        restore_environment(collector.env, simulators["state"])
        carry(collector, tensors["carried"])
        arrivals.goes_on = tensors["goes_on"]
    _restore_random_state(tensors["random"])
    return reason


def _random_state() -> dict[str, Any]:
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": random.getstate()}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    numpy = state["numpy"]
    numpy["state"]["key"] = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy)
    random.setstate(state["python"])
